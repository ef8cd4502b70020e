"""Small real things for the trainer's tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

from advgame.trainer.config import Config, load_config
from advgame.trainer.players import Player, load_players
from advgame.trainer.train import train

MAIN = Path(__file__).parents[1] / "trainer" / "main.py"
MODELS = ("attacker", "attacker_ema", "defender", "defender_ema")


def tiny_config(output_dir: Path, *overrides: str) -> Config:
    return load_config("tiny", [f"output_dir={output_dir}", *overrides])


def run_tiny(output_dir: Path, *overrides: str) -> Path:
    """Plays the tiny config to its end in this process."""
    train(tiny_config(output_dir, *overrides))
    return output_dir


def make_player(source: str) -> Player:
    """A player at the start of a run."""
    config = Config()
    config.attacker.model = config.defender.model = source
    return load_players(config, None)["attacker"]


def torchrun(*arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    """trainer/main.py as a user starts it, one thread a process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, str(MAIN), *arguments], capture_output=True, text=True, env=environment)


def records(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("timing")["seconds"] > 0
    return lines
