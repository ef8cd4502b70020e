"""Disks that fill up or are read-only: real file systems, made for the test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MAIN, MODELS, records, run_tiny
from safetensors.torch import load_file

from advgame.trainer.run import checkpoint

SETTINGS = (
    *("steps=6", "steps_per_batch=1", "checkpoint.every=2"),
    *("eval.every=3", "eval.seeds=[tiny.jsonl]", "eval.limit=4"),
)

MOUNTING = subprocess.run(
    ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
)
pytestmark = pytest.mark.skipif(
    MOUNTING.returncode != 0, reason=f"no file system can be mounted here: {MOUNTING.stderr.strip()}"
)

SCRIPT = """
set -e
mount -t tmpfs -o size=$1 none "$2"
shift 2
if [ -n "$BEFORE" ]; then sh -c "$BEFORE"; fi
set +e
"$@"
code=$?
rm -rf "$KEEP"/*
cp -r "$DISK"/. "$KEEP"
exit $code
"""
"""In a mount namespace of its own: a disk of a size, what happens before, a command, and a copy of what it leaves."""


def on_disk(size: str, disk: Path, keep: Path, command: list[str], before: str = "") -> subprocess.CompletedProcess:
    """The command with a small disk mounted at `disk`; `keep` then has what is on it. before: a shell command."""
    disk.mkdir(exist_ok=True)
    keep.mkdir(exist_ok=True)
    names = [f"DISK={disk}", f"KEEP={keep}", f"BEFORE={before}", "OMP_NUM_THREADS=1"]
    return subprocess.run(
        ["env", *names, "unshare", "--mount", "--map-root-user", "sh", "-c", SCRIPT, "sh", size, str(disk), *command],
        capture_output=True,
        text=True,
    )


def trainer(run: Path, processes: int = 1, *settings: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    start = [sys.executable, *(launcher if processes > 1 else []), str(MAIN)]
    return [*start, "--config", "tiny", *SETTINGS, f"output_dir={run}", *settings]


def told(done: subprocess.CompletedProcess) -> str:
    """The only line on stderr."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return run_tiny(tmp_path_factory.mktemp("whole") / "run", *SETTINGS)


def assert_whole_lines(run: Path) -> None:
    for file in run.glob("*.jsonl"):
        text = file.read_text()
        assert text.endswith("\n") or not text, file
        for line in text.splitlines():
            json.loads(line)


APPENDING = """
import sys
from pathlib import Path
from advgame.trainer.base.errors import WriteError
from advgame.trainer.base.files import append_record, write_text
file = Path(sys.argv[1])
try:
    while True:
        append_record(file, {"text": 3000 * "x"})
except WriteError as error:
    print(error)
before = file.read_bytes()
try:
    write_text(file, 8192 * "y")
except WriteError as error:
    print(error)
assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]
"""


def test_nothing_half_written_is_left(tmp_path):
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    done = on_disk("8k", disk, keep, [sys.executable, "-c", APPENDING, str(disk / "records.jsonl")])
    assert done.returncode == 0, done.stderr
    reason = "cannot be written: No space left on device, 0.0 MiB are free; free some space there"
    assert done.stdout == 2 * f"{disk}/records.jsonl: {reason}\n"
    assert len((keep / "records.jsonl").read_text().splitlines()) == 2
    assert_whole_lines(keep)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "what"),
    [
        ("8k", "run: a checkpoint takes"),
        ("900k", "checkpoints/step-000004"),
        ("690k", "checkpoints/step-000002"),
        ("1570k", ""),
        ("1650k", ""),
    ],
)
def test_a_run_on_a_full_disk_goes_on_when_there_is_space(tmp_path, whole, size, what):
    """Nothing half written is left, and what is finished with space is what it would have been."""
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    line = told(on_disk(size, disk, keep, trainer(disk / "run")))
    assert str(disk / "run") in line and what in line and "MiB are free" in line and "free some space" in line
    left = keep / "run"
    assert_whole_lines(left)
    assert not list(left.rglob(".*")), "temporary files"
    saved = (checkpoint.finished(left) or [0])[-1]
    assert "checkpoint takes" in line or ".png" in line or f"continues from step {saved}\n" in line
    again = on_disk("64m", disk, keep, trainer(disk / "run"), before=f"cp -r {left} {disk}")
    assert again.returncode == 0, again.stderr
    assert records(left) == records(whole)
    assert (left / "evaluation.jsonl").read_bytes() == (whole / "evaluation.jsonl").read_bytes()
    for name in MODELS:
        here, there = (load_file(checkpoint.folder(run, 6) / name / "model.safetensors") for run in (left, whole))
        assert all(here[key].equal(there[key]) for key in there)


@pytest.mark.slow
def test_every_process_hears_of_a_full_disk(tmp_path):
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    done = on_disk("1300k", disk, keep, trainer(disk / "run", 2))
    assert done.returncode == 1 and done.stderr.count("\nerror: ") + done.stderr.startswith("error: ") == 1
    line = "checkpoints/step-000004: cannot be written: No space left on device"
    assert all(line in part for part in done.stderr.split("traceback : ")[1:])
    ours, _, launchers = done.stderr.partition("torch/distributed/elastic")
    assert "Traceback" not in ours and launchers
    assert checkpoint.finished(keep / "run") == [2]


@pytest.mark.slow
def test_a_disk_that_is_read_only_is_one_line(tmp_path):
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    line = told(on_disk("8m", disk, keep, trainer(disk / "run"), before=f"mount -o remount,ro {disk}"))
    assert f"output_dir={disk}/run: cannot write there (Read-only file system)" in line


@pytest.mark.slow
def test_other_commands_say_so_in_a_line(tmp_path, whole):
    """The results of an evaluation, and models that are built."""
    disk, keep = tmp_path / "disk", tmp_path / "keep"
    evaluate = [sys.executable, "-m", "advgame.trainer.commands.main", "evaluate", str(whole)]
    full = f"head -c 8192 /dev/zero > {disk}/full || true"
    line = told(on_disk("8k", disk, keep, [*evaluate, "--json", str(disk / "result.json")], before=full))
    assert f"{disk}/result.json: cannot be written: No space left on device" in line
    assert [path.name for path in keep.iterdir()] == ["full"]
    cached = ["env", f"ADVGAME_CACHE={disk}", *trainer(tmp_path / "run")]
    line = told(on_disk("8k", disk, keep, cached))
    assert "attacker.model: " in line and "No space left on device" in line and list(keep.iterdir()) == []
