"""The console: a live view on a terminal, one line a step elsewhere."""

import re
from dataclasses import asdict
from io import StringIO

import pytest
from rich.console import Console

from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.measure.detection import Estimate
from advgame.trainer.measure.rates import rate
from advgame.trainer.records import Attack, Game, Parsed, Response, Rollout, Seed
from advgame.trainer.report.console import Progress

RESPONSE = Response(Rollout([1], [1], [], "an answer " * 20, True), Parsed("", "an answer"), reward=7.25)
ATTACK = Attack(Rollout([1], [1], [], "", True), Parsed("", "ask " * 40), responses=(RESPONSE,), reward=2.5)
GAMES = [Game(Seed("unanswered", "benign"), ()), Game(Seed("a seed", "harmful"), (ATTACK,))]


def record(step: int = 1, **changes) -> dict:
    player = {"loss": 0.6931, "pairs": 12}
    game = dict.fromkeys(("attack_success", "benign_compliance", "faithful"), asdict(rate([True] * 8)))
    game |= {"parsed": 1.0, "attacker_reward": -0.91, "defender_reward": 3.61, "duplicates": 0}
    timing = {"sampled_tokens_per_second": 1e4, "seconds": 100.0}
    return {"step": step, "game": game, "attacker": player, "defender": player, "timing": timing} | changes


def view(progress: Progress) -> str:
    """What it shows on a terminal of 80 columns, on one line."""
    console = Console(width=80, record=True, file=StringIO())
    console.print(progress.render())
    return " ".join(console.export_text().split())


def test_the_live_view_shows_figures_whole_and_takes_no_name_for_markup():
    progress = Progress("runs/[/b]", 0, 2, visible=False, clock=Clock())
    progress.step_done(record(), GAMES)
    shown = view(progress)
    for figure in (
        "runs/[/b]",
        "benign compliance 100%",
        "defender reward 3.61",
        "attacker 2.5  ask",
        "defender 7.2  an",
    ):
        assert " ".join(figure.split()) in shown, shown
    assert "harmful seed a seed" in shown


def test_the_live_view_shows_the_clocks_stage():
    clock = Clock()
    progress = Progress("run", 0, 2, visible=False, clock=clock)
    assert "step 0/2 time left ?" in view(progress)
    with clock(Stage.DEFEND):
        assert f"{Stage.DEFEND.value} 0 s" in view(progress)
    assert Stage.DEFEND.value not in view(progress)


def test_elsewhere_a_step_is_a_line(capsys):
    grouped = {"loss": None, "groups": 3}
    with Progress("run", 0, 2, visible=True, clock=Clock()) as progress:
        progress.step_done(record(), GAMES)
        progress.step_done(record(2, attacker=grouped, defender={}), [])
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"step 1/2  attack success 100%  benign compliance 100%  parsed 100%  faithful 100%  attacker reward -0\.91  "
        r"defender reward 3\.61  attacker loss 0\.6931  defender loss 0\.6931  attacker pairs 12  defender pairs 12  "
        r"sampled tok/s 10000  step s 100\.0  left 0:\d\d:\d\d",
        first,
    )
    assert "attacker loss –  defender loss –  attacker groups 3  sampled" in second and second.endswith("left 0:00:00")


def test_a_step_says_how_many_verdicts_it_lacks(capsys):
    known = record()
    known["game"] |= {"attack_success": asdict(rate([True, None])), "benign_compliance": asdict(rate([None] * 3, 2))}
    known["game"] |= {"faithful": asdict(rate([])), "parsed": None}
    progress = Progress("run", 0, 2, visible=True, clock=Clock())
    progress.step_done(known, GAMES)
    said = "attack success 100% (1 of 2 unjudged)  benign compliance – (3 of 5 unjudged)  parsed –  faithful –  "
    assert said in capsys.readouterr().out
    assert "benign compliance – (3 of 5 unjudged)" in view(progress)


def test_a_step_says_how_many_attacks_are_duplicates_if_any_are(capsys):
    known = record()
    known["game"]["duplicates"] = 3
    Progress("run", 0, 2, visible=True, clock=Clock()).step_done(known, GAMES)
    assert "defender reward 3.61  duplicates 3  attacker loss" in capsys.readouterr().out


@pytest.mark.parametrize("visible", [True, False])
def test_an_evaluation_is_a_few_lines_and_each_alarm_is_one(visible, capsys):
    part = {"attack_success": asdict(rate([True] + [False] * 3)), "benign_compliance": asdict(rate([]))}
    part |= {f"{name}_by_seeds": asdict(Estimate(None, None, None)) for name in part}
    part |= dict.fromkeys(("d_prime", "criterion"), asdict(Estimate(None, None, None)))
    evaluation = dict.fromkeys(("current", "initial", "written", "plain"), part)
    evaluation |= {"diversity": {"self_bleu": 0.5}, "alarms": ["[red]lengths", "a judge"]}
    Progress("run", 0, 2, visible, Clock()).evaluation_done(4, evaluation)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == (7 if visible else 0)
    if visible:
        assert shown[:2] == [
            "evaluation at step 4: self-BLEU 0.50",
            "  current attacker: attack success 25% of 4 (5%–70%)",
        ]
        assert shown[5:] == ["alarm at step 4: [red]lengths", "alarm at step 4: a judge"]
