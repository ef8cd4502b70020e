"""`advgame evaluate`: it measures what training measured, and opens a gate or keeps it shut."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import run_tiny

from advgame.trainer.commands.main import main
from advgame.trainer.run.checkpoint import folder


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "evaluation.jsonl").read_text().splitlines()]


def test_the_command_measures_what_training_did(evaluated, tmp_path, capsys):
    """The checkpoint's evaluation, and the start's, are those that training kept, in every digit."""
    file = tmp_path / "result.json"
    assert main(["evaluate", str(evaluated), "--json", str(file)]) == 0
    assert "attack success" in capsys.readouterr().out
    result = json.loads(file.read_text())
    first, *_, last = lines(evaluated)
    assert {"step": 0} | result.pop("start") == first
    assert result == last


def test_the_command_measures_adapters(evaluating, tmp_path):
    """A LoRA player starts as its base model. Merged into it, its hidden states round differently."""
    pytest.importorskip("peft")
    options = ("attacker.lora.rank=2", "defender.lora.rank=2", *evaluating[:-1], "steps=2")
    run, file = run_tiny(tmp_path / "run", *options), tmp_path / "result.json"
    assert main(["evaluate", str(folder(run, 2)), "--json", str(file)]) == 0
    result, (first, last) = json.loads(file.read_text()), lines(run)
    assert result.pop("start")["current"] == first["current"]
    spread = result["diversity"].pop("embedding_spread")
    assert spread == pytest.approx(last["diversity"].pop("embedding_spread"), rel=1e-5)
    assert result == last


def test_the_command_in_a_script(evaluated, capsys):
    """A success score of 0 makes a success of every attack that got a score; one of 10 of none here."""
    options = ["evaluate", str(evaluated), "--step", "5", "--max-attack-success", "0.9"]
    command = [sys.executable, "-m", "advgame.trainer.commands.main", *options, "judge.success_score=0"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 1, done.stderr
    assert main([*options, "judge.success_score=10"]) == 0
    for shown in (done.stdout, capsys.readouterr().out):
        assert "held-out attacks" in shown


def test_a_checkpoint_may_be_named_from_within(evaluated, monkeypatch, capsys):
    monkeypatch.chdir(folder(evaluated, 5))
    assert main(["evaluate", "."]) == 0
    assert "step 5" in capsys.readouterr().out


def test_a_gate_does_not_open_where_nothing_could_be_judged(evaluated, capsys):
    speechless = ["judge.kind=model", "judge.model=tiny", "judge.sampling.max_new_tokens=4"]
    assert main(["evaluate", str(evaluated), "--max-attack-success", "1", *speechless]) == 1
    assert "attack success is not known" in capsys.readouterr().err
    assert main(["evaluate", str(evaluated), *speechless]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/nowhere"], "not a run's folder"),
        (["{run}", "--step", "3"], "no checkpoint after step 3; there are 5"),
        (["{run}/checkpoints/step-000005", "--step", "5"], "--step 5: .* is one checkpoint"),
        (["{run}", "--max-attack-success", "30"], "--max-attack-success 30: must be between 0 and 1"),
        (["{run}", "--max-unjudged", "nan"], "--max-unjudged nan: must be between 0 and 1"),
        (["{run}", "--step", "5", "eval.every=0", "eval.seeds=[]"], r"eval\.seeds=\[\]: name at least"),
        (["{run}", "--max-attack-success", "0.3", "eval.seeds=[benign.jsonl]"], "has no harmful seeds"),
        (["{run}", "--step", "5", "eval.limt=3"], "eval.limt.*did you mean eval.limit"),
        (["{run}/checkpoints/best"], "best: not a checkpoint; those of a run are named step-N"),
        (["{run}", "--json", "{run}/config.yaml/result.json"], "--json .*result.json: cannot write there"),
        (["{run}", "--json", "{run}"], "--json .*: is a folder; name a file"),
    ],
)
def test_the_command_names_what_is_wrong(evaluated, arguments, message, capsys):
    assert main(["evaluate", *(argument.format(run=evaluated) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: .*{message}.*\n", error)
