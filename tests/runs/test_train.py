"""Whole runs on random-weight models: the loop, resuming, being killed, and several processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import MAIN, MODELS, records, run_tiny, tiny_config, torchrun
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from advgame.trainer.base.checksums import write_manifest
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.run import checkpoint
from advgame.trainer.run.train import train


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """Ten steps without interruption."""
    return run_tiny(tmp_path_factory.mktemp("whole") / "run")


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = checkpoint.folder(run, step)
    return {
        f"{name}/{key}": value
        for name in MODELS
        for key, value in load_file(folder / name / "model.safetensors").items()
    }


def test_every_step_is_played_and_trained(whole_run):
    lines = records(whole_run)
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line["batch"] for line in lines] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert sum(line["attacker"]["pairs"] for line in lines) > 5
    assert sum(line["defender"]["pairs"] for line in lines) > 5
    outcomes = {outcome for line in lines for outcome in line["game"]["prompt_outcomes"]}
    assert {"no_error", "parsing", "not_faithful"} <= outcomes
    moved = weights(whole_run, 10)
    start = weights(whole_run, 5)
    for name in MODELS:
        assert any(not torch.equal(moved[key], start[key]) for key in moved if key.startswith(f"{name}/"))


def test_samples_are_compared_with_the_weights_once_a_batch(whole_run):
    lines = records(whole_run)
    assert all(("mismatch" in line) == (line["step"] % 2 == 1) for line in lines)
    for line in lines[::2]:
        for off in line["mismatch"].values():
            assert off is None or (0 < off["mean"] <= off["largest"] < 1e-4 and abs(off["k3"]) < 1e-8), line
    assert all(line["mismatch"]["attacker"] for line in lines[::2])
    assert any(line["mismatch"]["defender"] for line in lines[::2])


def test_what_a_run_leaves_behind(whole_run):
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    samples = (whole_run / "samples" / "step-000010.txt").read_text()
    assert "seed:" in samples and "attack 1:" in samples and "response 1:" in samples
    assert checkpoint.finished(whole_run) == [5, 10]
    for name in MODELS:
        folder = checkpoint.folder(whole_run, 10) / name
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        assert model.generation_config.eos_token_id and tokenizer.chat_template
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "lock"}], return_tensors="pt", return_dict=True
        )
        assert model.generate(**ids, max_new_tokens=3).shape[1] > ids["input_ids"].shape[1]
    assert not list((whole_run / "checkpoints").glob(".*"))


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_resumed_run_is_bit_identical(whole_run, tmp_path, stop):
    """Stops fall on the end of a batch of rollouts (6) and in its middle (1, 3)."""
    run = run_tiny(tmp_path / "run", f"steps={stop}")
    run_tiny(run)
    assert records(run) == records(whole_run)
    resumed, whole = weights(run, 10), weights(whole_run, 10)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


@pytest.mark.slow
def test_killed_in_the_middle_of_a_step(tmp_path):
    arguments = ["--config", "tiny", "steps=40", "checkpoint.every=3"]
    run, file = tmp_path / "killed", tmp_path / "killed" / "metrics.jsonl"
    # Without torchrun, which would not pass SIGKILL on to its worker.
    process = subprocess.Popen(
        [sys.executable, str(MAIN), *arguments, f"output_dir={run}"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (file.exists() and len(file.read_bytes().splitlines()) >= 8):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 0 < checkpoint.finished(run)[-1] < 40
    with file.open("a") as out:
        out.write('{"step": 9, "half a li')  # as a kill inside a write leaves it

    for folder in (run, tmp_path / "whole"):
        done = torchrun(*arguments, f"output_dir={folder}")
        assert done.returncode == 0, done.stderr
    assert records(run) == records(tmp_path / "whole")
    killed, whole = weights(run, 40), weights(tmp_path / "whole", 40)
    assert all(torch.equal(killed[key], whole[key]) for key in whole)


def test_a_checkpoint_that_was_being_written_is_not_used(whole_run, tmp_path):
    run = run_tiny(tmp_path / "run", "steps=5")
    half = run / "checkpoints" / ".step-000007.tmp"
    half.mkdir()
    (half / "state.json").write_text("{")
    run_tiny(run)
    assert records(run) == records(whole_run)


def test_a_checkpoint_that_was_being_deleted_is_not_used(tmp_path, monkeypatch):
    """Half of one must not be taken for one, and is swept away later."""
    options, rmtree = ("checkpoint.every=1", "checkpoint.keep=1", "steps_per_batch=1"), shutil.rmtree

    def killed(path, **ignored):
        (next(path.rglob("*.safetensors"))).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", lambda path, **how: killed(path) if path.exists() else rmtree(path, **how))
        run_tiny(tmp_path, *options, "steps=3")
    assert checkpoint.finished(tmp_path) == [2]
    run_tiny(tmp_path, *options, "steps=3")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]


def test_folders_of_other_names_are_no_checkpoints(tmp_path):
    run = run_tiny(tmp_path, "steps=1")
    (run / "checkpoints" / "step-000001.bak").mkdir()
    assert checkpoint.finished(run_tiny(run, "steps=2")) == [1, 2]


def test_two_processes_are_one(tmp_path):
    exact = ("attacker.loss.filter_eps=0", "defender.loss.filter_eps=0")
    for processes in (1, 2):
        done = torchrun("--config", "tiny", f"output_dir={tmp_path / str(processes)}", *exact, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("step 10/10") == 1
    one, two = weights(tmp_path / "1", 10), weights(tmp_path / "2", 10)
    for key in one:
        assert torch.allclose(one[key], two[key], atol=1e-5), key
    for a, b in zip(records(tmp_path / "1"), records(tmp_path / "2"), strict=True):
        assert a["game"] == b["game"]
        assert a["attacker"]["pairs"] == b["attacker"]["pairs"]
        if a["attacker"]["pairs"]:
            assert a["attacker"]["loss"] == pytest.approx(b["attacker"]["loss"], rel=1e-4)


def test_a_run_may_go_on_with_other_processes(whole_run, tmp_path):
    run = run_tiny(tmp_path / "run", "steps=3")
    done = torchrun("--config", "tiny", f"output_dir={run}", processes=2)
    assert done.returncode == 0, done.stderr
    for a, b in zip(records(run), records(whole_run), strict=True):
        assert a["game"] == b["game"]


def test_a_finished_run_says_so_and_can_be_extended(tmp_path, capsys):
    run = run_tiny(tmp_path / "run", "steps=2")
    before = (run / "metrics.jsonl").read_bytes()
    run_tiny(run, "steps=2")
    assert "has all its 2 steps" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before
    for name in ("curves.png", "resources.json"):  # a kill between the last checkpoint and these leaves none
        (run / name).unlink()
    run_tiny(run, "steps=2")
    assert (run / "curves.png").exists() and json.loads((run / "resources.json").read_text())["steps"] == 2
    run_tiny(run, "steps=3")
    assert len(records(run)) == 3
    (run / "metrics.jsonl").unlink()  # by a user who wants the models alone
    run_tiny(run, "steps=3")


@pytest.mark.parametrize("change", ["seed=1", "attacker.loss.beta=0.5", "batch_size=4", "defender.judge=pointwise"])
def test_a_change_that_would_make_it_another_run_is_refused_by_name(tmp_path, change):
    run = run_tiny(tmp_path / "run", "steps=1")
    with pytest.raises(ConfigError, match=rf"{change}.*another output_dir"):
        train(tiny_config(run, "steps=2", change))


def test_a_change_of_pace_is_fine(tmp_path):
    run = run_tiny(tmp_path / "run", "steps=1")
    run_tiny(run, "steps=2", "attacker.optimizer.lr=1e-4", "checkpoint.keep=1", "attacker.sampling.batch_size=3")
    assert [line["attacker"]["lr"] for line in records(run)] == [1e-3, 1e-4]
    assert checkpoint.finished(run) == [2]


@pytest.mark.parametrize("frozen", ["attacker", "defender"])
def test_a_frozen_player_does_not_move(whole_run, tmp_path, frozen):
    run = run_tiny(tmp_path / "run", "steps=4", f"{frozen}.train=false", "checkpoint.every=1", "checkpoint.keep=4")
    first, last = weights(run, 1), weights(run, 4)
    moved = {key.split("/")[0] for key in first if not torch.equal(first[key], last[key])}
    trained = "defender" if frozen == "attacker" else "attacker"
    assert moved == {trained, f"{trained}_ema"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["attacker.loss.name=ipo", "defender.loss.name=ipo"],
        ["attacker.judge=pointwise", "defender.judge=pointwise", "defender.condition_on=seed"],
        ["attacker.judge=none", "attacker.reward_from=first", "defender.judge=none"],
        ["judge.faithfulness=false", "attacker.format=prompt_only", "defender.format=think_any"],
        ["judge.kind=model", "judge.model=tiny", "judge.sampling.max_new_tokens=8"],
        ["steps_per_batch=8", "attacker.sampling.top_p=0.8", "attacker.optimizer.warmup_steps=2"],
    ],
)
def test_variants_run(tmp_path, overrides):
    lines = records(run_tiny(tmp_path / "run", "steps=3", *overrides))
    assert len(lines) == 3
    if "judge.kind=model" in overrides:  # random text is no verdict: every judged prompt ends there
        assert all(
            set(line["game"]["prompt_outcomes"]) <= {"max_length", "parsing", "bad_faith_judge"} for line in lines
        )


def test_errors_reach_the_user_through_torchrun(tmp_path):
    done = torchrun("attacker.format=promt_only", f"output_dir={tmp_path}")
    assert done.returncode != 0
    assert "error: command line: attacker.format: Invalid value 'promt_only'" in done.stderr
    assert "did you mean attacker.format=prompt_only?" in done.stderr.split("Root Cause")[1]


def test_help_and_print_config():
    shown = torchrun("--help")
    assert shown.returncode == 0 and "defender.sampling.top_p = 0.9" in shown.stdout
    printed = torchrun("--print-config", "steps=3")
    assert printed.returncode == 0 and "steps: 3\n" in printed.stdout


def test_metrics_are_strict_json(whole_run):
    for line in (whole_run / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


@pytest.mark.parametrize("player", ["attacker", "defender"])
def test_packs_that_cannot_hold_a_pair_are_refused_before_any_work(tmp_path, player):
    with pytest.raises(ConfigError, match=rf"{player}.optimizer.tokens_per_pack=20: .* set tokens_per_pack to \d+ or"):
        run_tiny(tmp_path, f"{player}.optimizer.tokens_per_pack=20")
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["attacker.model=nowhere"], "attacker.model: model nowhere: neither"),
        (["defender.model=nowhere"], "defender.model: model nowhere: neither"),
        (["judge.kind=model", "judge.model=nowhere"], "judge.model: model nowhere: neither"),
        (["judge.kind=arena"], r"judge.kind=arena: cannot read the seed 'How .* set seeds.files=\[arena.jsonl\]"),
        (["attacker.sampling.max_new_tokens=1000"], r"attacker.sampling.max_new_tokens=1000: .* set it to \d+ or less"),
        (["attacker.sampling.max_new_tokens=800", "defender.sampling.max_new_tokens=250"], "defender.sampling.max_new"),
        (
            ["judge.kind=model", "judge.model=tiny", "judge.sampling.max_new_tokens=990"],
            r"judge.sampling.max_new_tokens=990: with a prompt of \d+ tokens this exceeds the 1024 positions of",
        ),
    ],
)
def test_what_cannot_be_played_to_the_end_is_refused_before_any_work(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        run_tiny(tmp_path, *overrides)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_output_dir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir=.*file: cannot write there"):
        run_tiny(tmp_path / "file")


def test_a_run_of_another_format_is_refused_by_name(tmp_path):
    run = run_tiny(tmp_path / "run", "steps=1")
    saved = checkpoint.folder(run, 1)
    older = {name: value for name, value in json.loads((saved / "state.json").read_text()).items() if name != "format"}
    (saved / "state.json").write_text(json.dumps(older))
    write_manifest(saved)
    with pytest.raises(ConfigError, match=r"output_dir=.*: its checkpoint was written by another version .*format 1"):
        run_tiny(run, "steps=2")
