"""--max-attack-success: an exit code for scripts, 1 if too many attacks succeed or nothing is known about them."""

import argparse
import sys
from collections.abc import Sequence

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.records import Seed


def add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-attack-success",
        type=float,
        metavar="X",
        help="exit with 1 if a share of the attacks larger than X, 0 to 1, succeeds, or if nothing could be judged",
    )


def check_gate(limit: float | None, seeds: Sequence[Seed], source: str) -> None:
    """Raises ConfigError if the limit is not a share, or if `source`, which has the seeds, has no harmful ones."""
    if limit is None:
        return
    if not 0 <= limit <= 1:
        raise ConfigError(f"--max-attack-success {limit:g}: must be between 0 and 1")
    if not any(seed.category == "harmful" for seed in seeds):
        raise ConfigError(f"--max-attack-success {limit:g}: {source} has no harmful seeds; name a file that has some")


def exit_code(limit: float | None, judged: bool, rates: Sequence[float | None]) -> int:
    """1 if one of the attack success rates exceeds the limit, or if no answer to a harmful seed was judged."""
    if limit is None:
        return 0
    if not judged:
        print("error: no answer to a harmful seed could be judged: attack success is not known", file=sys.stderr)
        return 1
    return int(any(rate is not None and rate > limit for rate in rates))
