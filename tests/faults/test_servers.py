"""Judges behind servers that misbehave, from the start or for a while: nothing silent, no hang, no figure made up."""

import itertools
import time
from pathlib import Path

import pytest
from faults.badserver import KEY, MISBEHAVIOURS, BadServer, Handler, bad_server, behave
from faults.commands import REFUSED
from faults.forked import Command, start
from helpers import records

pytestmark = pytest.mark.timeout(180)

SETTINGS = (
    "--config", "tiny", "steps=3", "steps_per_batch=1", "batch_size=4", "judge.server.timeout=1",
    "judge.server.patience=0.03",
)  # fmt: skip
NO_VERDICT = ("an answer that is empty", "an answer that is cut off", "an answer that is no verdict",
              "a verdict of 100,000 spaces")  # fmt: skip
"""Texts like any other: judges may say what they like."""
BROKEN = [name for name in MISBEHAVIOURS if name not in NO_VERDICT]
LISTING = [name for name in BROKEN if not name.startswith(("an answer that", "a choice"))]
REFUSED_AT_ONCE, AWAY = 2, 75


def judged_by(server: BadServer, run: Path, *settings: str) -> Command:
    arguments = ("train", *SETTINGS, *server.settings, f"output_dir={run}", *settings)
    return start(*arguments, log=run.with_suffix(".log"), KEY=KEY)


def check_quiet(command: Command, run: Path) -> None:
    """No traceback, and the key nowhere: neither on the screen nor in the run's folder."""
    assert "Traceback" not in command.text, command.text
    written = [file.read_bytes() for file in run.rglob("*") if file.is_file()]
    assert not any(KEY.encode() in content for content in [command.text.encode(), *written])


@pytest.mark.parametrize("listing", [False, True], ids=["answers", "models"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_server_that_misbehaves_is_refused_before_any_work(name, listing, tmp_path, fault):
    began = time.monotonic()
    with bad_server(MISBEHAVIOURS[name], listing) as server:
        command = judged_by(server, tmp_path / "run")
        assert command.code in (REFUSED_AT_ONCE, AWAY), command.text
    check_quiet(command, tmp_path / "run")
    assert len(command.errors) == 1 and "judge.server" in command.errors[0], command.text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert time.monotonic() - began < 60
    fault("servers", f"misbehave when asked for {'their models' if listing else 'a judgment'}, from the start", REFUSED)


@pytest.mark.parametrize("name", NO_VERDICT)
def test_a_judge_without_a_verdict(name, tmp_path, fault):
    """Nothing was measured, so there is no figure."""
    with bad_server(MISBEHAVIOURS[name]) as server:
        command = judged_by(server, tmp_path / "run", "steps=6", "alarms.idle_steps=3")
        assert command.code == 0, command.text
    check_quiet(command, tmp_path / "run")
    assert "alarm" in command.text, command.text
    rates = [line["game"][name] for line in records(tmp_path / "run") for name in ("attack_success", "faithful")]
    assert any(rate["unjudged"] for rate in rates)
    assert all(rate["share"] is None for rate in rates if rate["unjudged"])
    fault("servers", "never give a verdict", "no figure is given, an alarm names the judge")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[dict]:
    """The metrics of a run that a good server judged."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with bad_server(behave) as server:
        assert judged_by(server, run).code == 0
    return records(run)


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_a_server_that_misbehaves_once_in_a_while(name, undisturbed, tmp_path, fault):
    """At three requests: tried again, or counted as judgments that failed. The run ends either way."""
    turns = itertools.count(1)

    def answer(handler: Handler) -> None:
        (MISBEHAVIOURS[name] if next(turns) in (5, 12, 19) else behave)(handler)

    with bad_server(answer) as server:
        command = judged_by(server, tmp_path / "run")
        assert command.code == 0, command.text
    check_quiet(command, tmp_path / "run")
    lines = records(tmp_path / "run")
    failed = sum(n for line in lines for part in ("prompt_outcomes", "response_outcomes")
                 for outcome, n in line["game"][part].items() if outcome.startswith("bad_"))  # fmt: skip
    assert (lines == undisturbed) == (failed == 0)
    outcome = "counted as judgments that failed" if failed else "asked again, the run ended bit-identical"
    fault("servers", "misbehave at three requests of a run", outcome)


def test_a_server_that_dies_and_comes_back(undisturbed, tmp_path, fault, times):
    """An outage costs time, not data."""
    for dead_for in (3, 6, 12)[: times(1, 3)]:
        run = tmp_path / str(dead_for)
        with bad_server(behave) as server:
            port = server.server_port
            command = judged_by(server, run, "judge.server.patience=1")
            while not (run / "metrics.jsonl").exists():
                assert command.process.is_alive(), command.text
                time.sleep(0.01)
        time.sleep(dead_for)
        with bad_server(behave, port=port):
            assert command.code == 0, command.text
        assert records(run) == undisturbed
        fault("servers", "die during a run and come back", "the run waited and ended bit-identical")


def test_a_server_that_stays_away(undisturbed, tmp_path, fault):
    """Longer than it is waited for: what is done is saved, and the run goes on when the server is back."""
    run = tmp_path / "run"
    with bad_server(behave) as server:
        port = server.server_port
        command = judged_by(server, run)
        while not (run / "metrics.jsonl").exists():
            assert command.process.is_alive(), command.text
            time.sleep(0.01)
    assert command.code == AWAY and len(command.errors) == 1, command.text
    check_quiet(command, run)
    with bad_server(behave, port=port) as server:
        assert judged_by(server, run).code == 0
    assert records(run) == undisturbed
    fault("servers", "stay away", "the run saved, exited with 75, went on bit-identical")
