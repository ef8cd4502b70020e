"""Run folders in which files were damaged, lost, swapped or left by strangers: noticed, and said."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import WAYS
from faults.commands import REFUSED, refusal
from faults.forked import start
from faults.runs import SETTINGS, assert_same, files_of

DRAWN = ("curves.png", "evaluation.png", "resources.json", "report.html")
"""Made anew at the end of a run."""
NOTICED = "noticed: refused in one line, or the checkpoint before was taken and the run ended bit-identical"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("undisturbed") / "run", "steps=6")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory) -> Path:
    """Checkpoints after 2 and 4 steps of 6."""
    return run(tmp_path_factory.mktemp("halfway") / "run", "steps=4")


def run(folder: Path, *settings: str) -> Path:
    command = start("train", *SETTINGS, *settings, f"output_dir={folder}", log=folder.with_suffix(".log"))
    assert command.code == 0, command.text
    return folder


def go_on(capsys, folder: Path, undisturbed: Path) -> str | None:
    """The one line of a refusal, or a run that ends as if nothing had been."""
    line = refusal(capsys, "train", *SETTINGS, "steps=6", f"output_dir={folder}")
    if line is None:
        assert_same(folder, undisturbed)
    return line


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file(way, halfway, undisturbed, tmp_path, capsys, fault, times, seed):
    draw, unnoticed = random.Random(seed), []
    files = sorted(file for file in files_of(halfway) if file.name not in DRAWN and "samples" not in file.parts)
    one_of_each = [
        draw.choice([file for file in files if file.name == name]) for name in sorted({f.name for f in files})
    ]
    for file in draw.sample(one_of_each, min(times(2, 100), len(one_of_each))):
        if (way, file.name) == ("removed", "metrics.jsonl"):  # as users may, who want the models alone
            continue
        folder = tmp_path / "run"
        shutil.copytree(halfway, folder)
        WAYS[way](folder / file)
        try:
            line = go_on(capsys, folder, undisturbed)
            assert line is None or str(folder) in line, line
        except Exception as error:  # all of them are told at the end
            unnoticed.append(f"{file}: {type(error).__name__}: {str(error)[:100]}")
        shutil.rmtree(folder)
        fault("files", f"a file of a run {way}", NOTICED)
    assert not unnoticed, "\n".join(unnoticed)


PLAYERS = ("attacker", "defender")
STRANGE: dict[str, Callable[[Path], object]] = {
    "an empty folder named like a later checkpoint": lambda run: (run / "checkpoints" / "step-999999").mkdir(),
    "a file named like a later checkpoint": lambda run: (run / "checkpoints" / "step-999999").write_text(""),
    "a link to nowhere named like a later checkpoint": lambda run: (newest(run).parent / "step-000009").symlink_to("x"),
    "optimisers of the players swapped": lambda run: swap(run, *(f"{name}_optimizer.safetensors" for name in PLAYERS)),
    "players swapped": lambda run: swap(run, *PLAYERS),
    "an older checkpoint's optimiser": lambda run: older(run, "attacker_optimizer.safetensors"),
    "an older checkpoint's weights": lambda run: older(run, "attacker/model.safetensors"),
    "an older checkpoint's state": lambda run: older(run, "state.json"),
    "half a line at the end of the metrics": lambda run: append(run / "metrics.jsonl", '{"step": 5, "ba'),
    "a line without a step in the metrics": lambda run: append(run / "metrics.jsonl", "{}\n"),
    "a line that is no object in the metrics": lambda run: append(run / "metrics.jsonl", "[]\n"),
    "a step twice in the metrics": lambda run: append(run / "metrics.jsonl", lines(run)[0]),
    "a line missing in the metrics": lambda run: (run / "metrics.jsonl").write_text("".join(lines(run)[1:])),
    "all metrics gone": lambda run: (run / "metrics.jsonl").write_text(""),
    "all checkpoints gone": lambda run: shutil.rmtree(run / "checkpoints"),
}  # fmt: skip


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines(keepends=True)


def newest(run: Path) -> Path:
    return run / "checkpoints" / "step-000004"


def swap(run: Path, one: str, other: str) -> None:
    (newest(run) / one).rename(run / "aside")
    (newest(run) / other).rename(newest(run) / one)
    (run / "aside").rename(newest(run) / other)


def older(run: Path, file: str) -> None:
    shutil.copyfile(run / "checkpoints" / "step-000002" / file, newest(run) / file)


def append(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


@pytest.mark.parametrize("name", STRANGE)
def test_what_a_stranger_left(name, halfway, undisturbed, tmp_path, capsys, fault):
    shutil.copytree(halfway, tmp_path / "run")
    STRANGE[name](tmp_path / "run")
    line = go_on(capsys, tmp_path / "run", undisturbed)
    assert line is None or str(tmp_path / "run") in line, line
    fault("files", "files of a run swapped, doubled or from strangers", NOTICED)


@pytest.mark.parametrize("command", ["evaluate", "crossplay"])
def test_commands_on_folders_that_are_no_runs(command, tmp_path, capsys, fault):
    for name in ("nowhere", "empty", "file"):
        if name == "empty":
            (tmp_path / name).mkdir()
        if name == "file":
            (tmp_path / name).write_text("")
        line = refusal(capsys, command, str(tmp_path / name))
        assert line and name in line
        fault("input", "folders that are no runs", REFUSED)
