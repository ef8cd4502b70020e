"""Games as readable text."""

from pathlib import Path

from advgame.trainer.base.files import write_text
from advgame.trainer.base.text import printable
from advgame.trainer.records import Attack, Game, Response

HEAD = "=== "
"""Begins the first line of a game; nothing else does that is not a seed's own."""


def write_transcript(file: Path, games: list[Game]) -> None:
    """Every attack and response, with its outcome and its reward."""
    write_text(file, "\n\n".join(_game(game) for game in games) + "\n")


def first_games(transcript: str, count: int = 3) -> str:
    """The beginning of what write_transcript wrote."""
    between = f"\n\n{HEAD}"
    return between.join(transcript.rstrip("\n").split(between)[:count])


def _game(game: Game) -> str:
    lines = [f"{HEAD}{game.seed.category} seed: {printable(game.seed.query)}"]
    for a, attack in enumerate(game.shown, start=1):
        if attack is game.plain:
            lines += ["", "  as it is:"]
        else:
            lines += ["", f"  attack {a}: {_verdict(attack)}", _indent(_sample(attack), 6)]
        for d, response in enumerate(attack.responses, start=1):
            if response.rollout:
                lines += [f"    response {d}: {_verdict(response)}", _indent(_sample(response), 8)]
    return "\n".join(lines)


def _verdict(candidate: Attack | Response) -> str:
    outcome = "" if candidate.outcome.valid else f"{candidate.outcome}, "
    return f"{outcome}reward {'none' if candidate.reward is None else f'{candidate.reward:g}'}"


def _sample(candidate: Attack | Response) -> str:
    return candidate.rollout.text if candidate.rollout else candidate.content


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in printable(text).splitlines() or [""])
