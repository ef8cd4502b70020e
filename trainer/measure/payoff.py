"""The payoff matrix of a run: every saved attacker against every saved defender."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from advgame.trainer.base.clock import Clock
from advgame.trainer.base.randomness import Key
from advgame.trainer.game.play import Rules, answer, game_keys, write
from advgame.trainer.measure.detection import Detection, detect
from advgame.trainer.measure.rates import Rate, rates
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Game, Seed
from advgame.trainer.rollouts.local import LocalSampler

Matrix = list[list[Rate]]
"""[attacker][defender]."""


@dataclass(frozen=True)
class SavedPlayers:
    """The models that play after a number of steps."""

    step: int
    attacker: str | Path
    defender: str | Path


@dataclass(frozen=True)
class Payoff:
    """What every attacker does to every defender. Each attacker wrote once, one attack a seed, for all defenders."""

    steps: list[int]
    """Of the attackers and of the defenders, rising; 0 is the start of the run."""
    harmful: int
    """Number of harmful seeds."""
    benign: int
    attack_success: Matrix
    """On harmful seeds."""
    benign_compliance: Matrix
    """Under the attacks on benign seeds."""
    detection: list[list[Detection]]
    """Of both together, [attacker][defender]."""
    faithful: list[Rate]
    """Of each attacker's attacks."""


Track = Callable[[list[SavedPlayers], str], Iterable[SavedPlayers]]
"""Shows progress through a list, under a title."""


def play_matrix(saved: list[SavedPlayers], seeds: list[Seed], rules: Rules, draws: Key, track: Track) -> Payoff:
    """Plays all against all, one player's model in memory at a time. `rules` are those of `measuring`."""
    keys = game_keys(draws, len(seeds))

    def attacks(players: SavedPlayers) -> list[Game]:
        attacker = LocalSampler(load_policy(players.attacker), "attacker", rules.attacker.sampling.precision).freeze()
        return write(rules, attacker, seeds, keys, Clock())

    def column(players: SavedPlayers) -> list[tuple[dict[str, Rate], Detection]]:
        defender = LocalSampler(load_policy(players.defender), "defender", rules.defender.sampling.precision).freeze()
        answered = (answer(rules, defender, games, keys, Clock()) for games in written)
        success_score = rules.judging.success_score
        return [(rates(games, success_score), detect(games, success_score, (*draws, "seeds"))) for games in answered]

    written = [attacks(players) for players in track(saved, "attackers write")]
    columns = [column(players) for players in track(saved, "defenders answer")]
    rows = list(zip(*columns, strict=True))
    categories = [seed.category for seed in seeds]
    return Payoff(
        [players.step for players in saved],
        categories.count("harmful"),
        categories.count("benign"),
        [[known["attack_success"] for known, _ in row] for row in rows],
        [[known["benign_compliance"] for known, _ in row] for row in rows],
        [[detection for _, detection in row] for row in rows],
        [row[0][0]["faithful"] for row in rows],
    )
