"""An attacker plays against any target, and what becomes of its attacks."""

from dataclasses import dataclass

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.attempts import Attempt, AttemptOutcome
from advgame.trainer.measure.detection import Detection, detect
from advgame.trainer.measure.diversity import diversity
from advgame.trainer.measure.metrics import different_texts
from advgame.trainer.measure.rates import Rate, best_of_n, rates
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.base import Sampler
from advgame.trainer.rollouts.local import LocalSampler


@dataclass(frozen=True)
class Measured:
    """What is measured of answered games."""

    rates: dict[str, Rate]
    detection: Detection


@dataclass(frozen=True)
class RedTeaming:
    """All that results.json says."""

    attacker: str
    target: str
    judge: str
    success_score: float
    seed_files: list[str]
    seeds: int
    """Number of seeds."""
    attacks_per_seed: int
    rates: dict[str, Rate]
    detection: Detection
    by_field: str | None
    """The field of the seeds that rates and detection are split by."""
    by: dict[str, Measured]
    """For each value of this field."""
    outcomes: dict[AttemptOutcome, int]
    """Number of attempts."""
    diversity: dict[str, float | None]
    """Of the attacks, without duplicates."""
    duplicates: int
    """Number of attacks with the text of an earlier one on the same seed."""
    attempts: list[Attempt]
    config: dict
    """Every setting that was played by."""


def write_attacks(
    attacker: str, seeds: list[Seed], rules: Rules, draws: Key
) -> tuple[list[Game], dict[str, float | None]]:
    """The attacks on every seed, and how varied they are. The attacker's model is freed."""
    policy = load_policy(attacker)
    games = write(
        rules,
        LocalSampler(policy, "attacker", rules.attacker.sampling.precision),
        seeds,
        game_keys(draws, len(seeds)),
        Clock(),
    )
    return games, diversity(different_texts(games), policy)


def answer_attacks(games: list[Game], target: Sampler, rules: Rules, draws: Key) -> list[Game]:
    """The games with the target's responses, judged."""
    return answer(rules, target, games, game_keys(draws, len(games)), Clock())


def measure(games: list[Game], success_score: float, draws: Key) -> Measured:
    """What a report says of the games; the draws decide which seeds are resampled."""
    known = rates(games, success_score) | {"best_of_n": best_of_n(games, success_score)}
    return Measured(known, detect(games, success_score, (*draws, "seeds")))


def split(games: list[Game], field: str) -> dict[str, list[Game]]:
    """By a field of the seeds; those without it are under the empty string."""
    parts: dict[str, list[Game]] = {}
    for game in games:
        parts.setdefault(({"category": game.seed.category} | game.seed.fields).get(field, ""), []).append(game)
    return dict(sorted(parts.items()))
