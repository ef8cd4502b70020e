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
    sizes = [needed * part // 100 for part in range(3, 125, times(40, 6))]
    stopped = 0
    for size in sizes:
        with small_disk(tmp_path / f"disk{size}", f"{size}k") as disk:
            run, log = disk.path / "run", tmp_path / f"{size}.log"
            first = start("train", *SETTINGS, f"output_dir={run}", log=log)
            if first.code != 0:
                stopped += 1
                assert "Traceback" not in first.text, first.text
                assert len(first.errors) == 1 and "space" in first.errors[0] and "output_dir" in first.errors[0]
                left = records(run) if (run / "metrics.jsonl").exists() else []
                assert [line["step"] for line in left] == list(range(1, len(left) + 1))
                disk.remount("size=64m")
                assert start("train", *SETTINGS, f"output_dir={run}", log=log).code == 0, log.read_text()
            assert_same(run, undisturbed)
    assert stopped
    fault("files", "a disk that fills up", "stopped with one line, went on bit-identical when there was space", times=stopped)


def test_a_disk_that_becomes_read_only(undisturbed, tmp_path, fault, times):
    for strikes_at in range(1, times(2, 6)):
        with small_disk(tmp_path / f"disk{strikes_at}", "64m") as disk:
            run, log = disk.path / "run", tmp_path / f"{strikes_at}.log"
            command = start("train", *SETTINGS, f"output_dir={run}", log=log, watched=True)
            begun = 0
            for what, _ in command.doing():
                begun += what == "backward"
                if begun == strikes_at:
                    disk.remount("ro")
                    break
            assert command.code == 2 and "Traceback" not in command.text, command.text
            assert len(command.errors) == 1 and "output_dir" in command.errors[0], command.errors
            disk.remount("rw")
            assert start("train", *SETTINGS, f"output_dir={run}", log=log).code == 0, log.read_text()
            assert_same(run, undisturbed)
        fault("files", "a disk that becomes read-only", "stopped with one line, went on bit-identical afterwards")


def test_a_folder_that_cannot_be_written(tmp_path, fault):
    with small_disk(tmp_path / "disk", "1m") as disk:
        disk.remount("ro")
        command = start("train", *SETTINGS, f"output_dir={disk.path / 'run'}", log=tmp_path / "log")
        assert command.code == 2 and len(command.errors) == 1 and "output_dir" in command.errors[0], command.text
    fault("files", "a disk that was read-only", "refused before any work")
