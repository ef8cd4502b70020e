"""Runs in which a player has nothing to learn from: they say so, and which setting is to be looked at."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from chatserver import chat_server
from helpers import records, run_tiny, torchrun

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.run import checkpoint
from advgame.trainer.run.train import train
from advgame.trainer.settings.load import load_config

NO_VERDICT = ("judge.kind=model", "judge.model=tiny", "judge.sampling.max_new_tokens=8")
TO_THE_END = ("attacker.sampling.max_new_tokens=60", "defender.sampling.max_new_tokens=60")
GRPO = ("attacker.loss={name: grpo, nll_weight: 0}", "defender.loss.name=grpo")


def check_alarms(run: Path, shown: str, players: tuple[str, ...], said: str) -> None:
    """After three steps, the alarms of these players are in the record, on the console, and first in the summary."""
    alarms = [line.get("alarms") for line in records(run)]
    assert alarms[:2] == [None, None]
    assert [alarm.split()[1] for alarm in alarms[2]] == list(players)
    for alarm in alarms[2]:
        assert re.match(r"the \w+ has learnt nothing in its last 3 steps: ", alarm) and re.search(said, alarm), alarm
        assert f"alarm at step 3: {alarm}\n" in shown
    summary = shown[shown.rindex("alarm at step 3") :].partition("\n")[2]
    for line, player in zip(summary.splitlines()[::2], players, strict=False):
        assert re.match(rf"The {player} learnt nothing in 3 of 3 steps: ", line) and re.search(said, line), line


@pytest.mark.parametrize(
    ("base", "overrides", "players", "said"),
    [
        ("tiny", NO_VERDICT, 2, r"(\d+) of \1 attacks got no verdict on their faithfulness .bad_faith_judge.; look at"),
        ("tiny", ["attacker.sampling.max_new_tokens=1"], 2, "max_length.; raise attacker.sampling.max_new_tokens"),
        ("tiny", ["attacker.format=think_prompt", *TO_THE_END], 2, r"(\d+) of \1 attacks are not in attacker.format"),
        ("tiny", ["defender.format=think_answer", *TO_THE_END], 2, r"(\d+) of \1 responses are not in defender.format"),
        ("arena", ["attacker.min_gap=1000", "defender.min_gap=1000"], 2, r"less than (attacker|defender).min_gap; low"),
        (
            "arena",
            ["attacker.sampling.temperature=0", "defender.sampling.temperature=0"],
            2,
            r"equal rewards; raise (\w+).sampling.temperature or \1.samples, or look at \1.judge",
        ),
        ("arena", ["defender.judge=none", "attacker.reward_from=first"], 1, "equal rewards; .* defender.judge"),
        ("arena", [*GRPO, "defender.judge=none", "attacker.reward_from=first"], 1, "equal rewards; .* defender.judge"),
    ],
)
def test_the_alarm_names_the_player_the_outcome_and_the_setting(tmp_path, capsys, base, overrides, players, said):
    run = tmp_path / "run"
    short = ("steps=3", "steps_per_batch=1", "alarms.idle_steps=3", "eval.every=0")
    train(load_config(base, [f"output_dir={run}", *short, *overrides]))
    check_alarms(run, capsys.readouterr().out, ("attacker", "defender")[-players:], said)


@pytest.mark.parametrize(
    ("answer", "players", "said"),
    [
        (lambda text: "I would rather not say", 2, r"(\d+) of \1 attacks got no verdict .* judge.server"),
        (lambda text: "<answer>False</answer>", 2, r"(\d+) of \1 attacks do not keep the meaning .*faithfulness=false"),
        (lambda text: "<answer>True</answer>", 1, r"(\d+) of \1 responses got no score .bad_def_judge.; look at judge"),
    ],
)
def test_the_alarm_names_what_the_judge_on_a_server_does(
    tmp_path, capsys, answer: Callable[[str], str], players: int, said: str
):
    short = ("steps=3", "steps_per_batch=1", "alarms.idle_steps=3", *TO_THE_END)
    with chat_server(answer) as server:
        judge = ("judge.kind=server", f"judge.server.url={server.config.url}", "judge.server.model=judge-7b")
        run = run_tiny(tmp_path, *judge, *short)
    check_alarms(run, capsys.readouterr().out, ("attacker", "defender")[-players:], said)


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_resumed_run_has_the_alarms_of_an_undisturbed_one(tmp_path, stop):
    """Alarms are due at 3, 6 and 9; stops are before the first one, and between two."""
    options = (*NO_VERDICT, "steps=9", "alarms.idle_steps=3")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_tiny(whole, *options)
    run_tiny(resumed, *options, f"steps={stop}")
    run_tiny(resumed, *options)
    assert [line["step"] for line in records(whole) if "alarms" in line] == [3, 6, 9]
    assert records(resumed) == records(whole)


def test_only_the_steps_of_a_players_turn_count(tmp_path):
    """Turns of three steps: an attacker's step, of which five are its own by step 8, is followed by a defender's."""
    options = ("schedule=sequential", "steps_per_turn=3", "steps=9", "alarms.idle_steps=5")
    lines = records(run_tiny(tmp_path, *NO_VERDICT, *options))
    assert [("idle" in line["attacker"], "idle" in line["defender"]) for line in lines] == (
        [(True, False)] * 3 + [(False, True)] * 3 + [(True, False)] * 3
    )
    assert {line["step"]: len(line["alarms"]) for line in lines if "alarms" in line} == {8: 1}
    assert lines[7]["alarms"][0].startswith("the attacker has learnt nothing in its last 5 steps")


def test_a_frozen_player_is_not_idle(tmp_path):
    lines = records(run_tiny(tmp_path, *NO_VERDICT, "attacker.train=false", "steps=2", "alarms.idle_steps=2"))
    assert [alarm.split()[1] for alarm in lines[1]["alarms"]] == ["defender"]


def test_a_run_that_learns_has_no_word_of_it(tmp_path, capsys):
    run = run_tiny(tmp_path, "steps=4", "alarms.idle_steps=2", "judge.faithfulness=false")
    text = (run / "metrics.jsonl").read_text()
    assert not any(word in text for word in ("alarms", "idle", "skipped"))
    shown = capsys.readouterr().out
    assert "alarm" not in shown and "learnt nothing" not in shown


def test_the_run_stops_when_idle_with_its_state_saved(tmp_path):
    options = (*NO_VERDICT, "alarms.idle_steps=3", "alarms.stop_when_idle=true")
    said = "stopped by alarms.stop_when_idle=true after step 3: the attacker has learnt nothing .* the defender has"
    with pytest.raises(ConfigError, match=said):
        run_tiny(tmp_path / "run", *options)
    assert checkpoint.finished(tmp_path / "run") == [3]
    with pytest.raises(ConfigError, match="after step 6"):  # it gets as many steps again
        run_tiny(tmp_path / "run", *options)
    run_tiny(tmp_path / "run", *options, "alarms.stop_when_idle=false")
    run_tiny(tmp_path / "whole", *NO_VERDICT, "alarms.idle_steps=3")
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_stopping_is_an_error_of_every_process(tmp_path):
    options = ("alarms.idle_steps=2", "alarms.stop_when_idle=true", f"output_dir={tmp_path / 'run'}")
    done = torchrun("--config", "tiny", *NO_VERDICT, *options, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("error: stopped by alarms.stop_when_idle=true after step 2") >= 1
    assert "Traceback (most recent call last)" not in done.stderr.split("error: stopped")[0]
    assert json.loads((checkpoint.folder(tmp_path / "run", 2) / "state.json").read_text())["step"] == 2
