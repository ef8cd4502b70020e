"""Games as readable text."""

from pathlib import Path

from advgame.trainer.console import printable
from advgame.trainer.game import Attack, Game, Response
from advgame.trainer.outputs import write


def write_transcript(file: Path, games: list[Game]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, "\n\n".join(_game(game) for game in games) + "\n")


def _game(game: Game) -> str:
    lines = [f"=== {game.seed.category} seed: {printable(game.seed.prompt)}"]
    for a, attack in enumerate(game.prompts, start=1):
        if attack is game.plain:
            lines += ["", "  as it is:"]
        else:
            lines += ["", f"  attack {a}: {_verdict(attack)}", _indent(attack.rollout.text, 6)]
        for d, response in enumerate(attack.responses, start=1):
            if response.rollout is not None:
                lines += [f"    response {d}: {_verdict(response)}", _indent(response.rollout.text, 8)]
    return "\n".join(lines)


def _verdict(candidate: Attack | Response) -> str:
    outcome = "" if candidate.outcome == "no_error" else f"{candidate.outcome}, "
    return f"{outcome}reward {'none' if candidate.reward is None else f'{candidate.reward:g}'}"


def _indent(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in printable(text).splitlines() or [""])
