"""Warm starts of the tiny model: they learn, resume bit for bit, and end in a model that a game can name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import records, run_tiny, write_lessons
from safetensors.torch import load_file

from advgame.trainer.commands.main import main
from advgame.trainer.measure.rates import Rate
from advgame.trainer.run import checkpoint
from advgame.trainer.settings.load import load_warmstart, read_stored

SETTINGS = ["model=tiny", "batch_size=8", "optimizer.lr=1e-2", "checkpoint.every=5", "defender.short_share=0"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Settings that name what is taught, and what is measured on."""
    pairs, wrappings = write_lessons(tmp_path_factory.mktemp("lessons"))
    return [pairs, wrappings, pairs.replace("pairs=", "held_out.seeds="), f"held_out.{wrappings}"]


def start(*arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "advgame.trainer.commands.main", "warmstart", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def assert_equal(run: Path, whole: Path, steps: int) -> None:
    assert records(run) == records(whole)
    last = checkpoint.folder(Path(), steps)
    names = ["model/model", f"{last}/defender/model", f"{last}/defender_optimizer"]
    for name in names:
        one, other = (load_file(folder / f"{name}.safetensors") for folder in (run, whole))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in other), name
    assert (run / "report.json").read_bytes() == (whole / "report.json").read_bytes()


def test_a_defender_learns_and_the_game_takes_it(files, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["warmstart", *SETTINGS, *files, "examples=240", f"output_dir={run}"]) == 0
    losses = [record["loss"] for record in records(run)]
    assert len(losses) == 30 and losses[-1] < losses[0] / 3
    assert [record["examples"] for record in records(run)] == [8] * 30
    shown = capsys.readouterr().out
    assert "lessons  240 in 30 steps" in shown and "step 30/30  loss" in shown
    report = json.loads((run / "report.json").read_text())
    asked = {kind: Rate(**figures["attack_success"]).asked for kind, figures in report.items()}
    assert asked == {"plain": 12, "light": 12, "heavy": 12}
    assert "plain    complies with harm" in shown and "of 12" in shown
    played = run_tiny(tmp_path / "game", f"defender.model={run / 'model'}", "steps=1", "steps_per_batch=1")
    assert records(played)[0]["defender"]["pairs"] >= 0


def test_an_attacker_learns(files, tmp_path, capsys):
    settings = [*SETTINGS, *files, "player=attacker", f"output_dir={tmp_path}", "held_out.limit=4", "examples=80"]
    assert main(["warmstart", *settings]) == 0
    losses = [record["loss"] for record in records(tmp_path)]
    assert losses[-1] < losses[0] / 2
    report = json.loads((tmp_path / "report.json").read_text())["attacks"]
    assert report["parsed"]["trials"] == 4 * 2 * 4
    assert "attacks  are in the format" in capsys.readouterr().out


def test_a_killed_one_resumes_bit_for_bit(files, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = [*SETTINGS, *files, "examples=320", "held_out.limit=3"]
    undisturbed = start(*arguments, f"output_dir={whole}")
    killed = start(*arguments, f"output_dir={run}")
    while lines_of(run) < 13 and killed.poll() is None:
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and 5 <= checkpoint.finished(run)[-1] < 40
    assert not (run / "model").exists()
    resumed = start(*arguments, f"output_dir={run}")
    for process in (undisturbed, resumed):
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert_equal(run, whole, 40)


def test_a_signal_saves_the_last_finished_step(files, tmp_path):
    process = start(*SETTINGS, *files, "examples=80000", "checkpoint.every=100000", f"output_dir={tmp_path}")
    while lines_of(tmp_path) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 0 and "stopped by SIGTERM; the same command continues" in error
    assert checkpoint.finished(tmp_path) == [lines_of(tmp_path)]


def test_what_may_change_when_it_continues(files, tmp_path, capsys):
    arguments = ["warmstart", *SETTINGS, *files, f"output_dir={tmp_path}", "held_out.limit=2", "examples=40"]
    assert main(arguments) == 0
    assert main([*arguments, "held_out.limit=3"]) == 0  # nothing is left to learn; more to measure on
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5]
    capsys.readouterr()
    for changed in ("defender.comply.heavy=0.5", "player=attacker", "examples=48", "lora.rank=2"):
        assert main([*arguments, changed]) == 2
        assert f"{changed}: the run in" in capsys.readouterr().err


def test_an_adapter_resumes_too_and_is_what_is_saved(files, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = ["warmstart", *SETTINGS, *files, "examples=80", "held_out.limit=3", "lora.rank=2", "checkpoint.keep=9"]
    for folder in (whole, run):
        assert main([*arguments, f"output_dir={folder}"]) == 0
    shutil.rmtree(run / "model")
    shutil.rmtree(checkpoint.folder(run, 10))
    assert main([*arguments, f"output_dir={run}"]) == 0
    for folder in ("model", checkpoint.folder(Path(), 10) / "defender"):
        one, other = (load_file(root / folder / "adapter_model.safetensors") for root in (run, whole))
        assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in other)
    assert records(run) == records(whole)
    played = run_tiny(tmp_path / "game", f"defender.model={run / 'model'}", "steps=1", "steps_per_batch=1")
    assert records(played)[0]["defender"]["pairs"] >= 0


def test_the_printed_config_is_what_was_run(files, tmp_path, capsys):
    arguments = [
        *SETTINGS,
        *files,
        "examples=8",
        f"output_dir={tmp_path / 'run'}",
        "held_out.seeds=[]",
        "held_out.wrappings=[]",
    ]
    assert main(["warmstart", *arguments, "--print-config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_warmstart([str(tmp_path / "printed.yaml")], []) == load_warmstart(None, arguments)
    assert main(["warmstart", "--config", str(tmp_path / "printed.yaml")]) == 0
    assert read_stored(tmp_path / "run" / "config.yaml") == read_stored(tmp_path / "printed.yaml")
    assert not (tmp_path / "run" / "report.json").exists() and (tmp_path / "run" / "model").is_dir()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["wrappings=[{bad}]"], "bad.jsonl:2: `kind` is 'huge', must be light or heavy"),
        (["held_out.wrappings=[{bad}]"], "bad.jsonl:2: `kind` is 'huge'"),
        (["model=nowhere"], "model: model nowhere: neither a folder"),
        (["optimizer.tokens_per_pack=9"], "optimizer.tokens_per_pack=9: the longest example has"),
        (["defender.sampling.max_new_tokens=2000"], "defender.sampling.max_new_tokens=2000: with a prompt of"),
        (["examples=20"], "examples=20: not whole steps of batch_size=8 examples; set it to 24"),
        (["optimizer.lr=0"], "optimizer.lr=0: nothing would be learnt"),
        (["optimizer.max_loss_ratio=2"], "optimizer.max_loss_ratio=2.0: for the game only"),
        (["optimizer.decay_steps=2"], "optimizer.decay_steps=2: for the game only"),
        (["held_out.seeds=[]"], "held_out.wrappings="),
        (["defender.comply.heavy=1.1"], "defender.comply.heavy=1.1: must be between 0 and 1"),
        (["judge.kind=arena"], "judge.kind=arena"),
        (["player=judge"], "player"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(files, tmp_path, capsys, settings, complaint):
    bad = tmp_path / "bad.jsonl"
    good = {"family": "a", "kind": "light", "wrapping": "{query}"}
    bad.write_text(f"{json.dumps(good)}\n{json.dumps(good | {'kind': 'huge'})}\n")
    settings = [setting.replace("{bad}", str(bad)) for setting in settings]
    assert main(["warmstart", *SETTINGS, *files, f"output_dir={tmp_path / 'run'}", *settings]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and complaint in error
    assert not (tmp_path / "run" / "checkpoints").exists() and not (tmp_path / "run" / "metrics.jsonl").exists()
