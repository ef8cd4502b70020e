"""Games -> games without malformed attacks, for an attacker that is not to learn from them."""

from dataclasses import replace

from advgame.trainer.records import Game


def leave_out_malformed(games: list[Game]) -> tuple[list[Game], int]:
    """The games without attacks that are cut off or not in the attacker's format, and how many these were.

    A defender, who never sees them, learns the same from both.
    """
    kept = [replace(game, attacks=tuple(a for a in game.attacks if a.outcome.readable)) for game in games]
    return kept, sum(len(game.attacks) for game in games) - sum(len(game.attacks) for game in kept)
