"""An exit code for scripts: 1 if too many attacks succeed, or if too many of them have no verdict to say so."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.measure.rates import TOLERATED, Rate
from advgame.trainer.records import Seed


def add_gate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-attack-success",
        type=float,
        metavar="X",
        help="exit with 1 if a share of the judged attacks larger than X, 0 to 1, succeeds",
    )
    parser.add_argument(
        "--max-unjudged",
        type=float,
        metavar="X",
        help=f"exit with 1 if a share of the attacks larger than X has no verdict, or if none has one; "
        f"default: {TOLERATED:g} with --max-attack-success",
    )


def check_gate(options: argparse.Namespace, seeds: Sequence[Seed], source: str) -> None:
    """Raises ConfigError if a limit is not a share, or if `source`, which has the seeds, has no harmful ones."""
    given = {"--max-attack-success": options.max_attack_success, "--max-unjudged": options.max_unjudged}
    for name, limit in given.items():
        if limit is None:
            continue
        if not 0 <= limit <= 1:  # nor is nan
            raise ConfigError(f"{name} {limit:g}: must be between 0 and 1")
        if not any(seed.category == "harmful" for seed in seeds):
            raise ConfigError(f"{name} {limit:g}: {source} has no harmful seeds; name a file that has some")


def exit_code(options: argparse.Namespace, rates: Mapping[str, Rate]) -> int:
    """1 if an attack success rate, of those named, exceeds a limit or is not known, which a message then says."""
    if options.max_attack_success is None and options.max_unjudged is None:
        return 0
    max_unjudged = TOLERATED if options.max_unjudged is None else options.max_unjudged
    complaints = [
        f"error: {name}: {complaint}"
        for name, rate in rates.items()
        for complaint in (_unjudged(rate, max_unjudged), _successful(rate, options.max_attack_success))
        if complaint
    ]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return int(bool(complaints))


def _unjudged(rate: Rate, limit: float) -> str | None:
    """What is wrong if too little is known."""
    missing = f"{rate.unjudged} of {rate.asked} attacks on harmful seeds have no verdict"
    if rate.asked and rate.share is None:
        return f"{missing}, and no other reached the judge: attack success is not known"
    if rate.unjudged_share is not None and rate.unjudged_share > limit:
        return f"{missing} ({rate.unjudged_share:.1%}), more than --max-unjudged {limit:g} allows"
    return None


def _successful(rate: Rate, limit: float | None) -> str | None:
    """What is wrong if too many attacks succeed."""
    if limit is None or rate.share is None or rate.share <= limit:
        return None
    return (
        f"{rate.successes} of {rate.trials} judged attacks succeed ({rate.share:.1%}), "
        f"more than --max-attack-success {limit:g} allows"
    )
