"""Evaluation: what is measured, that it leaves the run alone, and that it is the same after a stop."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import records, run_tiny, torchrun

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.game.play import Match, Rules
from advgame.trainer.judges.phrases import judge_by_phrases
from advgame.trainer.measure.evaluation import (
    HeldOut,
    attack_held_out,
    evaluate,
    measuring,
    plain,
    read_held_out,
    written,
)
from advgame.trainer.measure.rates import Rate
from advgame.trainer.models.load import load_policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Seed
from advgame.trainer.report.tables import evaluation_text
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.summary import sum_up
from advgame.trainer.seeds import read_seeds
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import EvalConfig


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]


def test_what_is_kept(evaluated):
    kept = lines(evaluated)
    assert [line["step"] for line in kept] == [0, 2, 4, 5]
    for line in kept:
        asked = {name: Rate(**line[name]["attack_success"]).asked for name in ("current", "plain", "written")}
        assert asked == {"current": 3, "plain": 3, "written": 1}
        for name in ("current", "initial", "written", "plain"):
            for rate in ("attack_success", "benign_compliance"):
                assert line[name][f"{rate}_by_seeds"]["value"] == line[name][rate]["share"]
            both = None not in (line[name]["attack_success"]["share"], line[name]["benign_compliance"]["share"])
            assert (line[name]["d_prime"]["value"] is not None) <= both
        assert line["plain"]["d_prime"]["value"] is not None
        assert 0 <= line["diversity"]["distinct_1"] <= 1 and line["signs"]["attack_tokens"] > 0
    assert kept[0]["current"] == kept[0]["initial"]  # the same players, the same draws
    assert kept[-1]["current"] != kept[-1]["initial"]
    assert kept[0]["signs"]["attack_length_ratio"] == 1
    assert kept[-1]["signs"]["response_length_ratio"] != 1
    assert (evaluated / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    json.loads((evaluated / "evaluation.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_the_summary_has_the_first_and_the_last_evaluation(evaluated):
    first, *_, last = lines(evaluated)
    said = sum_up(evaluated, load_config(str(evaluated / "config.yaml"), []))
    for step, line in ((0, first), (5, last)):
        assert evaluation_text(f"held-out seeds at step {step}", line) in said
    assert "  plain seeds: attack success " in said and ", d′ " in said
    assert [sample["category"] for sample in last["samples"]] == ["harmful", "benign"]  # of the two held-out attacks
    for sample in first["samples"] + last["samples"]:
        assert f"{sample['category']} seed: {sample['seed']}" in said
        assert f"    response: {' '.join(sample['response'].split())}" in said


def test_the_run_is_what_it_is_without(evaluated, tmp_path, capsys):
    alone = run_tiny(tmp_path, "steps=5", "steps_per_batch=1")
    assert records(alone) == records(evaluated)
    assert "evaluation" not in capsys.readouterr().out
    assert not (alone / "evaluation.jsonl").exists() and not (alone / "evaluation.png").exists()


def test_a_resumed_run_is_evaluated_alike(evaluated, evaluating, tmp_path, capsys):
    run = run_tiny(tmp_path, *evaluating, "steps=2")
    with (run / "evaluation.jsonl").open("a") as out:
        out.write('{"step": 4}\n{"step": 5, "curr')  # of steps that no checkpoint knows
    run_tiny(run, *evaluating)
    assert (run / "evaluation.jsonl").read_bytes() == (evaluated / "evaluation.jsonl").read_bytes()
    assert capsys.readouterr().out.count("evaluation at step") == 4


@pytest.mark.parametrize("name", ["initial-attacks.json", "evaluation.jsonl"])
def test_what_evaluations_are_compared_with_must_be_there(name, evaluating, tmp_path):
    run = run_tiny(tmp_path, *evaluating, "steps=1")
    (run / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} is missing.*another output_dir"):
        run_tiny(run, *evaluating, "steps=2")


def test_a_run_that_was_cut_before_its_first_checkpoint_begins_anew(evaluated, evaluating, tmp_path):
    (tmp_path / "evaluation.jsonl").write_text((evaluated / "evaluation.jsonl").read_text())
    run = run_tiny(tmp_path, *evaluating)
    assert lines(run) == lines(evaluated)


def test_two_processes_measure_alike(evaluated, evaluating, tmp_path):
    done = torchrun("--config", "tiny", f"output_dir={tmp_path}", *evaluating, processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("evaluation at step") == 4
    for one, two in zip(lines(evaluated), lines(tmp_path), strict=True):
        for name in ("current", "initial", "written", "plain"):
            assert one[name] == two[name], (one["step"], name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.every=2"], r"eval\.every=2: .*eval\.seeds="),
        (["eval.every=2", "eval.seeds=[nowhere.jsonl]"], r"eval\.seeds: nowhere\.jsonl"),
        (["eval.every=2", "eval.seeds=[tiny.jsonl]", "eval.attacks=[nowhere.jsonl]"], r"eval\.attacks: nowhere\.jsonl"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run_tiny(tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_other_seeds_would_make_it_another_evaluation(tmp_path):
    run = run_tiny(tmp_path, "steps=1", "eval.every=1", "eval.seeds=[tiny.jsonl]")
    with pytest.raises(ConfigError, match=r"eval\.limit=2: .*started with eval\.limit=64"):
        run_tiny(run, "steps=2", "eval.every=1", "eval.seeds=[tiny.jsonl]", "eval.limit=2")


def test_greedy_players_take_the_most_probable_tokens(evaluating, tmp_path):
    sampled, greedy = (
        run_tiny(tmp_path / name, *evaluating, "steps=1", f"eval.greedy={name}") for name in ("false", "true")
    )
    assert lines(sampled)[0]["signs"] != lines(greedy)[0]["signs"]
    assert records(sampled) == records(greedy)


def test_seeds_are_asked_as_they_are_and_attacks_judged_on_what_they_mean():
    assert plain([Seed("s", "benign")])[0].attacks[0].content == "s"
    (game,) = written([(Seed("meant", "harmful"), "asked")])
    assert (game.seed.query, game.attacks[0].content) == ("meant", "asked")


@pytest.fixture
def rules() -> Rules:
    """Of the tiny config, whose players write and answer several times and are judged in pairs."""
    config = load_config("tiny", ["defender.replay_seeds=true", "judge.faithfulness=false"])
    return Rules(Prompts(config.templates), judge_by_phrases, config.attacker, config.defender, config.judge)


def test_measuring_plays_once_and_leaves_the_rules_as_they_are(rules):
    sampled, greedy = measuring(rules, greedy=False), measuring(rules, greedy=True)
    for measured in (sampled, greedy):
        assert (measured.attacker.samples, measured.defender.samples, measured.defender.replay_seeds) == (1, 1, False)
        assert (measured.attacker.judge, measured.defender.judge) == ("pointwise", "pointwise")
        assert measured.attacker.reward_from == "first" and measured.judging is rules.judging
    assert (sampled.attacker.sampling, sampled.defender.sampling) == (rules.attacker.sampling, rules.defender.sampling)
    assert greedy.attacker.sampling == replace(rules.attacker.sampling, temperature=0.0)
    assert greedy.defender.sampling == replace(rules.defender.sampling, temperature=0.0)
    assert (rules.attacker.samples, rules.attacker.judge, rules.defender.replay_seeds) == (4, "pairwise", True)
    assert rules.attacker.sampling.temperature > 0


def test_the_random_draws_decide_what_is_measured(rules):
    """The same players and draws give the same record, others another; and the initial attacks are the attacker's."""
    policy = load_policy("tiny")
    match = Match(LocalSampler(policy, "attacker"), LocalSampler(policy, "defender"), rules)
    held_out = HeldOut(read_seeds(["tiny.jsonl"]), [], greedy=False)
    initial, same, others = (attack_held_out(match.attacker, rules, held_out, (i, "evaluation")) for i in (0, 0, 1))
    assert [game.seed for game in initial] == held_out.seeds and not any(g.attacks[0].responses for g in initial)
    first, again = (
        evaluate(match, held_out, {"current": current, "initial": initial}, (0, "evaluation"), policy)
        for current in (initial, same)
    )
    assert first == again and first["current"] == first["initial"]
    attacks = {"current": others, "initial": initial}
    other = evaluate(match, held_out, attacks, (1, "evaluation"), policy, first)
    assert other["current"] != other["initial"] and other["initial"] != first["initial"]


def test_held_out_seeds_and_attacks_are_limited_alike(evaluating):
    (attacks,) = (option.split("=[")[1][:-1] for option in evaluating if option.startswith("eval.attacks"))
    held_out = read_held_out(EvalConfig(seeds=["tiny.jsonl"], attacks=[attacks], limit=1, greedy=True))
    assert (len(held_out.seeds), len(held_out.attacks), held_out.greedy) == (1, 1, True)
    everything = read_held_out(EvalConfig(seeds=["tiny.jsonl"], attacks=[attacks], limit=None))
    assert (len(everything.seeds), len(everything.attacks)) == (12, 2)
    assert read_held_out(EvalConfig(seeds=["tiny.jsonl"])).attacks == []


def test_held_out_seeds_are_also_shown_in_wrappings(tmp_path):
    wrappings = tmp_path / "wrappings.jsonl"
    texts = [{"family": "a", "kind": "light", "wrapping": f"{word} {{query}}"} for word in ("please", "quick")]
    wrappings.write_text("".join(json.dumps(text) + "\n" for text in texts))
    held_out = read_held_out(EvalConfig(seeds=["tiny.jsonl"], wrappings=[str(wrappings)], limit=5))
    assert [seed for seed, _ in held_out.attacks] == held_out.seeds and len(held_out.seeds) == 5
    assert all(attack in {f"please {seed.query}", f"quick {seed.query}"} for seed, attack in held_out.attacks)
