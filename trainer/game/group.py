"""Rewards -> groups of samples with their advantages, for GRPO."""

from dataclasses import dataclass

from advgame.trainer.game import Attack, Game, Response, Rollout
from advgame.trainer.packing import Group
from advgame.trainer.rewards import advantages, mean_reward


@dataclass(frozen=True)
class ScoredGroup:
    """All samples of one prompt."""

    prompt_ids: list[int]
    rollouts: list[Rollout]
    advantages: list[float]
    """Of each sample: its reward minus the mean reward of the player's samples in the step."""
    valid: list[bool]
    """False where there is no reward: such a sample counts, but teaches nothing."""

    @property
    def group(self) -> Group:
        return Group(self.prompt_ids, [rollout.token_ids for rollout in self.rollouts])

    @property
    def logprobs(self) -> list[float]:
        """Of all tokens, when they were sampled."""
        return [logprob for rollout in self.rollouts for logprob in rollout.logprobs]


def attacker_groups(games: list[Game]) -> list[ScoredGroup]:
    """One a seed."""
    return _scored([(game.prompt_ids, game.attacks) for game in games])


def defender_groups(games: list[Game]) -> list[ScoredGroup]:
    """One a prompt that was shown to the defender."""
    attacks = [attack for game in games for attack in game.prompts]
    return _scored([(attack.prompt_ids, attack.responses) for attack in attacks if attack.prompt_ids])


def _scored(groups: list[tuple[list[int], list[Attack] | list[Response]]]) -> list[ScoredGroup]:
    mean = mean_reward([candidate.reward for _, candidates in groups for candidate in candidates])
    return [
        ScoredGroup(
            prompt_ids,
            [candidate.rollout for candidate in candidates],
            advantages([candidate.reward for candidate in candidates], mean),
            [candidate.reward is not None for candidate in candidates],
        )
        for prompt_ids, candidates in groups
    ]
