"""A disk that is full or read-only: one line, nothing half written, and the run goes on when there is space."""

from pathlib import Path

import pytest
from faults.disk import small_disk
from faults.forked import start
from faults.runs import SETTINGS, assert_same
from helpers import records


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start("train", *SETTINGS, f"output_dir={folder}", log=folder.with_suffix(".log")).code == 0
    return folder


def test_a_disk_that_fills_up(undisturbed, tmp_path, fault, times):
    """At any moment of a run: before its first checkpoint, while saving, while drawing the curves."""
    needed = sum(path.stat().st_size for path in undisturbed.rglob("*")) // 1024
    sizes = [needed * part // 100 for part in range(3, 125, times(40, 8))]
    stopped = 0
    for size in sizes:
        with small_disk(tmp_path / f"disk{size}", f"{size}k") as disk:
            run, log = disk.path / "run", tmp_path / f"{size}.log"
            first = start("train", *SETTINGS, f"output_dir={run}", log=log)
            if first.code != 0:
                stopped += 1
                assert "Traceback" not in first.text, first.text
                assert len(first.errors) == 1 and "space" in first.errors[0] and str(run) in first.errors[0]
                left = records(run) if (run / "metrics.jsonl").exists() else []
                assert [line["step"] for line in left] == list(range(1, len(left) + 1))
                disk.remount("size=64m")
                assert start("train", *SETTINGS, f"output_dir={run}", log=log).code == 0, log.read_text()
            assert_same(run, undisturbed)
    assert stopped
    fault(
        "files",
        "a disk that fills up",
        "stopped with one line, went on bit-identical when there was space",
        times=stopped,
    )


def test_a_disk_that_is_read_only(undisturbed, tmp_path, fault):
    """From the start, or when a run should go on."""
    with small_disk(tmp_path / "disk", "64m") as disk:
        run, log = disk.path / "run", tmp_path / "log"
        for steps in (0, 4):
            if steps:
                assert start("train", *SETTINGS, f"steps={steps}", f"output_dir={run}", log=log).code == 0
            disk.remount("ro")
            refused = start("train", *SETTINGS, f"output_dir={run}", log=tmp_path / f"{steps}.log")
            assert refused.code == 2 and len(refused.errors) == 1 and str(run) in refused.errors[0], refused.text
            assert "Traceback" not in refused.text
            disk.remount("rw")
            fault(
                "files", "a disk that is read-only", "refused in one line before any work, went on bit-identical later"
            )
        assert start("train", *SETTINGS, f"output_dir={run}", log=log).code == 0, log.read_text()
        assert_same(run, undisturbed)
