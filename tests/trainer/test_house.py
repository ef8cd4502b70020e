"""Rules of the house that are easy to break by accident."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from advgame.trainer.console import printable
from advgame.trainer.game import Attack, Game, Response, Rollout, Seed
from advgame.trainer.transcripts import write_transcript

ROOT = Path(__file__).parents[2]


def test_no_module_of_the_trainer_shadows_another():
    """`torchrun trainer/main.py` puts trainer/ first on sys.path: its names must be its own."""
    own = {path.stem for path in (ROOT / "trainer").iterdir() if path.suffix == ".py" or path.is_dir()}
    installed = {name for name, dists in packages_distributions().items() if dists != ["advgame"]}
    assert not own & (set(sys.stdlib_module_names) | installed)


def test_kernels_never_import_the_trainer():
    for file in (ROOT / "kernels").rglob("*.py"):
        assert (
            "advgame.trainer" not in file.read_text() and "transformers" not in file.read_text().split("import", 1)[1]
        )


def test_model_text_cannot_steer_the_terminal(tmp_path):
    hostile = "\x1b[2J\x1b]0;owned\x07 a\u202eb \r end"
    assert printable(hostile) == "\\x1b[2J\\x1b]0;owned\\x07 a\\u202eb \\r end"
    rollout = Rollout([1], [0.0], hostile, True)
    game = Game(Seed(hostile, "benign"), [1], [Attack("no_error", rollout, responses=[Response("no_error", rollout)])])
    write_transcript(tmp_path / "samples.txt", [game])
    text = (tmp_path / "samples.txt").read_bytes()
    assert b"\x1b" not in text and b"\r" not in text and text.count(b"owned") == 3
