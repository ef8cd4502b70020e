"""Rules of the house that are easy to break by accident."""

import sys
from importlib.metadata import packages_distributions
from io import StringIO
from pathlib import Path

from rich.console import Console

from advgame.trainer.console import Progress, printable
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
    words = "می\u200cخواهم क्\u200dष\u3000日本\u00a0! a\tb"
    assert printable(words) == words
    rollout = Rollout([1], [0.0], hostile, True)
    game = Game(Seed(hostile, "benign"), [1], [Attack("no_error", rollout, responses=[Response("no_error", rollout)])])
    write_transcript(tmp_path / "samples.txt", [game])
    text = (tmp_path / "samples.txt").read_bytes()
    assert b"\x1b" not in text and b"\r" not in text and text.count(b"owned") == 3


def test_the_live_view_shows_figures_whole_and_takes_no_name_for_markup():
    console = Console(width=80, record=True, file=StringIO())
    progress = Progress("runs/[/b]", 0, 2, visible=False)
    player = {"loss": 0.6931, "pairs": 12}
    game = dict.fromkeys(("attack_success", "benign_compliance", "parsed", "faithful"), 1.0)
    game |= {"attacker_reward": -0.91, "defender_reward": 3.61}
    timing = {"sampled_tokens_per_second": 1e4, "seconds": 100.0}
    responses = [Response("no_error", Rollout([1], [], "an answer " * 20, True), reward=7.25)]
    attack = Attack("no_error", Rollout([1], [], "", True), content="ask " * 40, responses=responses, reward=2.5)
    record = {"step": 1, "game": game, "attacker": player, "defender": player, "timing": timing}
    progress.step_done(record, [Game(Seed("a seed", "harmful"), [1], [attack])])
    console.print(progress._view())
    shown = console.export_text()
    for figure in (
        "runs/[/b]",
        "benign compliance 100%",
        "defender reward 3.61",
        "attacker 2.5  ask",
        "defender 7.2  an",
    ):
        assert " ".join(figure.split()) in " ".join(shown.split()), shown
