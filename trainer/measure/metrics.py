"""What a step is measured by: plain numbers from its games."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict

from advgame.trainer.measure.rates import rates
from advgame.trainer.records import Game


def game_metrics(games: list[Game], success_score: float) -> dict:
    """Rates (see measure/rates.py) and means over games; None if there is nothing to take them of."""
    attacks = [attack for game in games for attack in game.attacks]
    responses = [response for attack in attacks for response in attack.responses]
    scores = {
        category: [
            response.score
            for game in games
            if game.seed.category == category
            for attack in game.attacks
            for response in attack.responses
        ]
        for category in ("harmful", "benign")
    }
    return {name: asdict(rate) for name, rate in rates(games, success_score).items()} | {
        "deflection_score": mean(scores["harmful"]),
        "compliance_score": mean(scores["benign"]),
        "attacker_reward": mean(attack.reward for attack in attacks),
        "defender_reward": mean(response.reward for response in responses),
        "parsed": mean(attack.outcome.readable for attack in attacks),
        "valid_responses": mean(response.outcome.readable for response in responses if response.rollout),
        "prompt_tokens": mean(len(attack.rollout.token_ids) for attack in attacks if attack.rollout),
        "response_tokens": mean(len(response.rollout.token_ids) for response in responses if response.rollout),
        "duplicates": duplicates(games),
        "prompt_outcomes": dict(Counter(attack.outcome.value for attack in attacks)),
        "response_outcomes": dict(Counter(response.outcome.value for response in responses)),
    }


def different_texts(games: list[Game]) -> list[str]:
    """What the readable attacks say; the same text counts once for a seed."""
    said = [[attack.content for attack in game.attacks if attack.outcome.readable] for game in games]
    return [text for texts in said for text in dict.fromkeys(texts)]


def duplicates(games: list[Game]) -> int:
    """Number of readable attacks with the text of an earlier one on the same seed."""
    readable = sum(attack.outcome.readable for game in games for attack in game.attacks)
    return readable - len(different_texts(games))


def sampled_tokens(games: list[Game]) -> int:
    """Tokens of all samples, those of attacks and of responses."""
    attacks = [attack for game in games for attack in game.shown]
    rollouts = [attack.rollout for attack in attacks]
    rollouts += [response.rollout for attack in attacks for response in attack.responses]
    return sum(len(rollout.token_ids) for rollout in rollouts if rollout)


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are not None; None if there are none."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
