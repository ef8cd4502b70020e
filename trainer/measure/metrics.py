"""What a step is measured by: plain numbers from its games, and the file that keeps them."""

import json
from collections import Counter
from pathlib import Path

from advgame.trainer.game import Game
from advgame.trainer.outputs import write


def game_metrics(games: list[Game], success_score: float) -> dict:
    """Rates and means over games; None where there is nothing to take them of."""
    attacks = [attack for game in games for attack in game.attacks]
    responses = [response for attack in attacks for response in attack.responses]
    parsed = [attack for attack in attacks if attack.outcome not in ("max_length", "parsing")]
    checked = [attack for attack in parsed if attack.outcome != "bad_faith_judge"]
    shown = [response for response in responses if response.rollout is not None]
    harmful = [attack for game in games for attack in game.attacks if game.seed.category == "harmful"]
    answered = {
        category: [
            response.score
            for game in games
            if game.seed.category == category
            for attack in game.attacks
            for response in attack.responses
            if response.score is not None
        ]
        for category in ("harmful", "benign")
    }
    return {
        "attack_success": mean([(attack.score or 0.0) >= success_score for attack in harmful]),
        "benign_compliance": mean([score >= success_score for score in answered["benign"]]),
        "deflection_score": mean(answered["harmful"]),
        "compliance_score": mean(answered["benign"]),
        "attacker_reward": mean([attack.reward for attack in attacks]),
        "defender_reward": mean([response.reward for response in responses]),
        "parsed": len(parsed) / len(attacks) if attacks else None,
        "faithful": mean([attack.outcome != "not_faithful" for attack in checked]),
        "valid_responses": mean([response.outcome in ("no_error", "bad_def_judge") for response in shown]),
        "prompt_tokens": mean([len(attack.rollout.token_ids) for attack in attacks]),
        "response_tokens": mean([len(response.rollout.token_ids) for response in shown]),
        "prompt_outcomes": dict(Counter(attack.outcome for attack in attacks)),
        "response_outcomes": dict(Counter(response.outcome for response in responses)),
    }


def sampled_tokens(games: list[Game]) -> int:
    attacks = [attack for game in games for attack in game.prompts]
    rollouts = [attack.rollout for attack in attacks]
    rollouts += [response.rollout for attack in attacks for response in attack.responses if response.rollout]
    return sum(len(rollout.token_ids) for rollout in rollouts)


def mean(values: list) -> float | None:
    """Of the values that are there."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None


def append(file: Path, record: dict) -> None:
    """One line a step. What depends on the clock or the machine stands under `timing`, the rest is reproducible."""
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(record) + "\n")


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def truncate(file: Path, step: int) -> None:
    """Keeps the lines up to a step: later ones, or half a line, were left by a run that was cut."""
    if not file.exists():
        return
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    lines = [line for line in whole if json.loads(line)["step"] <= step]
    write(file, "".join(lines))
