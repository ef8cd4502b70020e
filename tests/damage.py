"""A run's folder, damaged in one file, and what those who read it make of that."""

import contextlib
import io
import os
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers import MODELS, run_tiny

from advgame.trainer.base.checksums import checksum
from advgame.trainer.commands.main import main
from advgame.trainer.run import checkpoint

SETTINGS = (
    "steps_per_batch=1", "batch_size=4", "checkpoint.every=2", "checkpoint.keep=9", "eval.every=2", "eval.limit=4",
    "eval.seeds=[tiny.jsonl]",
)  # fmt: skip
STEPS = 4
"""Done in a run of `make_run`, with checkpoints after 2 and 4."""


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


WAYS: dict[str, Callable[[Path], object]] = {
    "removed": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "one bit flipped": flip,
    "overwritten with noise": lambda file: file.write_bytes(random.Random(0).randbytes(1000)),
    "no longer UTF-8": lambda file: file.write_bytes(b"\xff\xfe" + file.read_bytes()),
    "made a folder": replace_by_folder,
    "replaced by other JSON": lambda file: file.write_text('["other", 1]\n'),
}
"""How a file may be damaged: "a file …"."""

_PLAYER = "checkpoints/step-000004/attacker_ema"
FILES = (
    "config.yaml",
    "metrics.jsonl",
    "evaluation.jsonl",
    "initial-attacks.json",
    "samples/step-000004.txt",
    "lock",
    "checkpoints/step-000004/SHA256SUMS",
    "checkpoints/step-000004/config.yaml",
    "checkpoints/step-000004/state.json",
    "checkpoints/step-000004/defender_optimizer.safetensors",
    f"{_PLAYER}/config.json",
    f"{_PLAYER}/generation_config.json",
    f"{_PLAYER}/model.safetensors",
    f"{_PLAYER}/tokenizer.json",
    f"{_PLAYER}/tokenizer_config.json",
    f"{_PLAYER}/chat_template.jinja",
)
"""In a run's folder; of the four models' files, those of one."""


def make_run(folder: Path) -> Path:
    """Four steps, and the lock of a process that was killed."""
    run_tiny(folder, *SETTINGS, f"steps={STEPS}")
    (folder / "lock").write_text(f"process 1 on {os.uname().nodename}, since 2026-01-01 00:00:00")
    return folder


@dataclass(frozen=True)
class Reading:
    """What came of a command."""

    code: int | str
    """The exit code, or the exception that got out."""
    said: str
    """Errors and warnings."""
    result: object
    """What was computed; None if nothing was."""


READERS = ("train", "evaluate", "crossplay", "redteam")
"""The commands that read a run's folder."""


def read(reader: str, run: Path) -> Reading:
    """Continues the run by two steps, or measures it."""
    out = run / "out"
    command = {
        "train": ["train", "--config", "tiny", *SETTINGS, f"steps={STEPS + 2}", f"output_dir={run}"],
        "evaluate": ["evaluate", str(run), "--json", str(out / "results.json")],
        "crossplay": ["crossplay", str(run), "--out", str(out)],
        "redteam": [
            "redteam", "--attacker", str(run / _PLAYER), "--target", "tiny", "--seeds", "tiny.jsonl", "--out", str(out),
        ],
    }[reader]  # fmt: skip
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        try:
            code: int | str = main(command)
        except Exception as error:
            code = repr(error)
    shown = said.getvalue() + "".join(f"warning: {warning.message}\n" for warning in warned)
    return Reading(code, shown, _result(reader, run) if code == 0 else None)


def _result(reader: str, run: Path) -> object:
    if reader == "train":
        last = checkpoint.folder(run, STEPS + 2)
        return {name: checksum(last / name / "model.safetensors") for name in MODELS}
    file = run / "out" / ("payoff.json" if reader == "crossplay" else "results.json")
    return file.read_text().replace(str(run), "RUN")


def damaged_copy(run: Path, folder: Path, file: str, way: str) -> Path:
    """The run in another folder, with damage to a file."""
    shutil.copytree(run, folder)
    WAYS[way](folder / file)
    return folder


def is_honest(reading: Reading, undamaged: Reading, file: str) -> bool:
    """True if one line names the damaged file, or nothing but a warning has changed."""
    name = Path(file).name
    if reading.code == 0:
        return reading.result == undamaged.result
    lines = reading.said.splitlines()
    return reading.code == 2 and name in lines[-1] and sum(line.startswith("error: ") for line in lines) == 1
