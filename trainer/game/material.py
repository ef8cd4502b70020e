"""Games -> those that the attacker learns from, without the attacks that it is not to learn from."""

from dataclasses import replace

from advgame.trainer.records import Game
from advgame.trainer.settings.schema import AttackerConfig


def for_attacker(games: list[Game], config: AttackerConfig) -> list[Game]:
    """Without those on benign seeds, and without attacks that are cut off or not in the format, if so configured."""
    if not config.learn_from_benign:
        games = [game for game in games if game.seed.category == "harmful"]
    if not config.learn_from_malformed:
        games = [replace(game, attacks=tuple(a for a in game.attacks if a.outcome.readable)) for game in games]
    return games


def attacks(games: list[Game]) -> int:
    """How many there are in the games."""
    return sum(len(game.attacks) for game in games)
