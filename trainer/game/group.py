"""Rewards -> groups of completions with their advantages, for GRPO."""

from collections.abc import Sequence

from advgame.trainer.records import Attack, Game, Response, ScoredGroup


def attacker_groups(games: list[Game]) -> list[ScoredGroup]:
    """One for each seed that has a sample."""
    return _scored([game.attacks for game in games])


def defender_groups(games: list[Game]) -> list[ScoredGroup]:
    """One for each attack that the defender was shown."""
    return _scored([attack.responses for game in games for attack in game.shown if attack.outcome.shown])


def advantages(rewards: list[float | None], mean: float) -> list[float]:
    """Reward minus a mean; a missing reward counts as 0 here, and is masked out of the loss."""
    return [(0.0 if r is None else r) - mean for r in rewards]


def mean_reward(rewards: list[float | None]) -> float:
    """Mean of the rewards that are not None, 0 if there are none."""
    valid = [r for r in rewards if r is not None]
    return sum(valid) / len(valid) if valid else 0.0


def _scored(groups: list[Sequence[Attack] | Sequence[Response]]) -> list[ScoredGroup]:
    sampled = [[(c.rollout, c.reward) for c in candidates if c.rollout is not None] for candidates in groups]
    mean = mean_reward([reward for group in sampled for _, reward in group])
    return [
        ScoredGroup(
            rollouts=tuple(rollout for rollout, _ in group),
            advantages=tuple(advantages([reward for _, reward in group], mean)),
            valid=tuple(reward is not None for _, reward in group),
        )
        for group in sampled
        if group
    ]
