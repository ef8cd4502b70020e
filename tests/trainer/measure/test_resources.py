"""What a run takes: counters of a made-up machine, and a run that is stopped and goes on."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import records, run_tiny

from advgame.trainer.base.files import append_record, read_records
from advgame.trainer.measure import resources
from advgame.trainer.measure.resources import EnergyMeter, summarise

RANGE = 262_143_328_850
"""Microjoules at which a counter wraps around."""


def set_counter(powercap: Path, domain: str, name: str, microjoules: int) -> None:
    folder = powercap / domain
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    half = folder / "energy_uj.tmp"
    half.write_text(f"{microjoules}\n")
    half.replace(folder / "energy_uj")


@contextmanager
def working(powercap: Path, begin: int) -> Iterator[list[int]]:
    """A machine that spends a joule at every tick; yields its counter."""
    stop, counter = threading.Event(), [begin]
    set_counter(powercap, "intel-rapl:0", "package-0", begin)

    def work():
        while not stop.wait(0.001):
            counter[0] += 1_000_000
            set_counter(powercap, "intel-rapl:0", "package-0", counter[0])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield counter
    finally:
        stop.set()
        thread.join()


def test_packages_and_memory_count_once_and_counters_may_wrap_around(tmp_path):
    powercap = tmp_path
    set_counter(powercap, "intel-rapl:0", "package-0", RANGE - 2_000_000)
    set_counter(powercap, "intel-rapl:0:0", "core", 0)
    set_counter(powercap, "intel-rapl:0:1", "dram", 1_000_000)
    set_counter(powercap, "intel-rapl:1", "package-1", 5_000_000)
    set_counter(powercap, "intel-rapl:2", "psys", 0)
    meter = EnergyMeter(powercap)
    set_counter(powercap, "intel-rapl:0", "package-0", 3_000_000)
    set_counter(powercap, "intel-rapl:0:0", "core", 70_000_000)
    set_counter(powercap, "intel-rapl:0:1", "dram", 1_500_000)
    set_counter(powercap, "intel-rapl:1", "package-1", 15_000_000)
    set_counter(powercap, "intel-rapl:2", "psys", 90_000_000)
    assert meter.take()["cpu"] == pytest.approx(5 + 0.5 + 10)
    assert meter.take()["cpu"] == 0


def test_what_cannot_be_read_is_not_claimed(tmp_path):
    powercap = tmp_path
    assert EnergyMeter(powercap).take()["cpu"] is None
    set_counter(powercap, "intel-rapl:0", "package-0", 0)
    set_counter(powercap, "intel-rapl:1", "package-1", 0)
    meter = EnergyMeter(powercap)
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert meter.take()["cpu"] is None


def record(joules: dict[str, float | None], **stages: float) -> dict:
    timing = {"seconds": 1.0, "elapsed": 2.0, "peak_memory_gib": len(stages), "sampled_tokens": 10}
    timing |= {"stages": stages, "joules": joules}
    return {"attacker": {"tokens": 5}, "defender": {}, "timing": timing}


def test_a_summary_is_of_all_steps_and_carbon_of_what_is_measured():
    lines = [record({"cpu": None, "gpu": 1.8e6}, plays=1.0), record({"cpu": 7.0, "gpu": 1.8e6}, plays=0.5, saves=3.0)]
    summary = summarise(lines, 400.0)
    assert (summary["steps"], summary["seconds"], summary["stages"]) == (2, 4.0, {"plays": 1.5, "saves": 3.0})
    assert (summary["peak_memory_gib"], summary["sampled_tokens"], summary["trained_tokens"]) == (2, 20, 10)
    assert (summary["kwh"], summary["carbon_g"]) == ({"cpu": None, "gpu": 1.0}, 400.0)
    assert summarise(lines, None)["carbon_g"] is None
    assert summarise([record({"cpu": None})], 400.0)["carbon_g"] is None


def test_a_run_that_continues_counts_everything_once(tmp_path, monkeypatch, capsys):
    powercap = tmp_path / "powercap"
    monkeypatch.setattr(resources, "POWERCAP", powercap)  # a made-up machine: the run has no setting for it
    options = ("checkpoint.every=2", "report.grid_intensity=100", "eval.every=3", "eval.seeds=[tiny.jsonl]")
    with working(powercap, 0) as counter:
        whole = run_tiny(tmp_path / "whole", *options, "steps=6")
        at_most = counter[0] / 1e6
        cut = run_tiny(tmp_path / "cut", *options, "steps=2")
    lost = read_records(cut / "metrics.jsonl")[-1] | {"step": 3}  # of a step that no checkpoint has: it is played again
    append_record(cut / "metrics.jsonl", lost)
    with working(powercap, RANGE // 2):  # what was spent in between is not the run's
        run_tiny(cut, *options, "steps=6")
    one, two = (json.loads((run / "resources.json").read_text()) for run in (whole, cut))
    for name in ("steps", "sampled_tokens", "trained_tokens"):
        assert one[name] == two[name] > 0
    assert one["trained_tokens"] == sum(
        line[player].get("tokens", 0) for line in records(whole) for player in ("attacker", "defender")
    )
    for run, taken in ((whole, one), (cut, two)):
        timings = [line["timing"] for line in read_records(run / "metrics.jsonl")]
        assert taken["seconds"] == sum(timing["elapsed"] for timing in timings) > sum(taken["stages"].values())
        joules = sum(timing["joules"]["cpu"] for timing in timings)
        assert taken["kwh"]["cpu"] * 3.6e6 == pytest.approx(joules) and 0 < joules < RANGE / 1e6 / 4
        assert taken["carbon_g"] == pytest.approx(joules / 3.6e6 * 100)
    assert one["kwh"]["cpu"] * 3.6e6 <= at_most
    between = {"loading models", "evaluating", "saving"}
    assert {"attacker writes", "defender answers", "attacker learns", "defender learns"} | between <= one[
        "stages"
    ].keys()
    assert "g CO2e, of cpu, at 100 g per kWh" in capsys.readouterr().out
