"""A short run with everything in it, and what makes two runs the same."""

import json
from pathlib import Path

import torch
from helpers import records
from safetensors.torch import load_file

SETTINGS = (
    "--config", "tiny", "steps=8", "checkpoint.every=2", "eval.every=4", "eval.seeds=[tiny.jsonl]", "eval.limit=2",
)  # fmt: skip
REPRODUCIBLE = (".txt", "evaluation.jsonl", "initial-attacks.json")
"""How the names of files end that are the same byte for byte."""


def assert_same(run: Path, other: Path) -> None:
    """The same metrics (but for times), evaluations, transcripts, weights and optimisers."""
    assert files_of(run) == files_of(other)
    assert records(run) == records(other)
    for name in files_of(run):
        if name.suffix == ".safetensors":
            a, b = load_file(run / name), load_file(other / name)
            assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name
        elif name.name == "state.json":  # but for the sums of records, in which there are times
            assert games_of(run / name) == games_of(other / name), name
        elif name.name.endswith(REPRODUCIBLE):
            assert (run / name).read_bytes() == (other / name).read_bytes(), name


def games_of(state: Path) -> list[dict]:
    return json.loads(state.read_text(encoding="utf-8"))["games"]


def files_of(run: Path) -> set[Path]:
    """Of the run and its checkpoints: not those that were set aside, or being removed when it was killed at its end."""
    files = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    return {file for file in files if not any(part[0] == "." or part.endswith(".damaged") for part in file.parts)}
