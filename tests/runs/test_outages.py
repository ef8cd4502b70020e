"""Whole runs whose judge cannot be reached: for a while, for good, during an evaluation, and for one process only."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from chatserver import chat_server, judged_by, verdict
from helpers import MAIN, MODELS, records, run_tiny, torchrun
from safetensors.torch import load_file

from advgame.trainer.base.files import read_records
from advgame.trainer.run import checkpoint

SETTINGS = ("steps=8", "checkpoint.every=50", "judge.server.timeout=2")
EVALUATED = ("eval.every=3", "eval.seeds=[tiny.jsonl]", "eval.limit=4")
IMPATIENT = "judge.server.patience=0.02"


def train(run: Path, *settings: str) -> subprocess.CompletedProcess:
    """In a process of its own, without torchrun, which has exit codes of its own."""
    command = [sys.executable, str(MAIN), "--config", "tiny", f"output_dir={run}", *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def assert_same(run: Path, other: Path) -> None:
    """Bit for bit, but for the clock."""
    assert records(run) == records(other)
    one, two = ([file.read_bytes() for file in folder.glob("evaluation.jsonl")] for folder in (run, other))
    assert one == two
    for name in MODELS:
        one, two = (load_file(checkpoint.folder(folder, 8) / name / "model.safetensors") for folder in (run, other))
        assert all(torch.equal(one[key], two[key]) for key in two)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run, and what its judge was asked."""
    with chat_server(verdict) as server:
        run = run_tiny(tmp_path_factory.mktemp("undisturbed") / "run", *SETTINGS, *EVALUATED, *judged_by(server))
    assert any(line["attacker"]["pairs"] for line in records(run))
    return run, [request["messages"][0]["content"] for request in server.requests]


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_an_outage_costs_time_and_nothing_else(undisturbed, tmp_path, share):
    whole, requests = undisturbed
    asked = itertools.count(1)

    def answer(text):
        if next(asked) == int(share * len(requests)):
            server.leave_for(3)
        return verdict(text)

    with chat_server(answer) as server, pytest.warns(UserWarning, match="answers again, after"):
        run = run_tiny(tmp_path / "run", *SETTINGS, *EVALUATED, *judged_by(server))
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "share"), [("<response_A>", 0.6), ("<response>", 0.6), ("<response>", 1)])
def test_a_judge_that_is_gone_for_good_ends_the_run_with_all_steps_saved(undisturbed, tmp_path, kind, share):
    """Games are judged in pairs. In evaluations responses are judged alone; the last thing that happens is one."""
    whole, requests = undisturbed
    run, nth = tmp_path / "run", int(share * sum(kind in text for text in requests))
    asked = itertools.count(1)

    def answer(text):
        if kind in text and next(asked) == nth:
            server.leave()
        return verdict(text)

    with chat_server(answer) as server:
        settings = [*SETTINGS, *EVALUATED, *judged_by(server), IMPATIENT]
        stopped = train(run, *settings)
        assert stopped.returncode == 75, stopped.stderr
        error = stopped.stderr.splitlines()[-1]
        assert error.startswith(f"error: judge.server.url={server.config.url}: no answer for ")
        assert error.endswith("; the same command continues from the newest checkpoint")
        assert "Traceback" not in stopped.stderr
        done = len(records(run))
        assert checkpoint.finished(run) == [done] and 0 < done <= 8
        measured = [line["step"] for line in read_records(run / "evaluation.jsonl")]
        assert measured == [step for step in (0, 3, 6, 8) if step < done or (step == done and kind == "<response_A>")]
        assert train(run, *settings).returncode == 2  # it is still away
        server.come_back()
        resumed = train(run, *settings)
        assert resumed.returncode == 0, resumed.stderr
    assert_same(run, whole)


def test_an_outage_before_the_first_step_leaves_nothing_to_save(tmp_path):
    asked = itertools.count(1)

    def answer(text):
        if next(asked) == 5:
            server.leave()
        return verdict(text)

    with chat_server(answer) as server:
        stopped = train(tmp_path, *SETTINGS, *judged_by(server), IMPATIENT)
    assert stopped.returncode == 75 and checkpoint.finished(tmp_path) == []


@pytest.mark.slow
def test_an_outage_that_one_process_meets_stops_all_and_loses_nothing(tmp_path):
    """Harmful seeds are the first process's, benign ones the second's; the judge fails on those after a while."""
    benign = [
        seed["prompt"]
        for line in (MAIN.parent / "data" / "tiny.jsonl").read_text().splitlines()
        if (seed := json.loads(line))["category"] == "benign"
    ]

    def answer(text):
        failing = len(server.requests) > 120 and (text == "Hello" or any(query in text for query in benign))
        return 502 if failing and is_failing else verdict(text)

    arguments = ("--config", "tiny", *SETTINGS)
    with chat_server(verdict) as server:
        whole = torchrun(*arguments, f"output_dir={tmp_path / 'whole'}", *judged_by(server), processes=2)
        assert whole.returncode == 0, whole.stderr
    is_failing = True
    with chat_server(answer) as server:
        settings = (*arguments, f"output_dir={tmp_path / 'run'}", *judged_by(server), IMPATIENT)
        stopped = torchrun(*settings, processes=2)
        assert stopped.returncode == 1 and "exitcode  : 75" in stopped.stderr
        assert stopped.stderr.count("error: judge.server.url=") >= 1
        done = len(records(tmp_path / "run"))
        assert checkpoint.finished(tmp_path / "run") == [done] and 0 < done < 8
        is_failing = False
        resumed = torchrun(*settings, processes=2)
        assert resumed.returncode == 0, resumed.stderr
    assert_same(tmp_path / "run", tmp_path / "whole")
