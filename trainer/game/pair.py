"""Rewards -> preference pairs."""

from dataclasses import dataclass

from advgame.trainer.game import Attack, Game, Response, Rollout
from advgame.trainer.packing import Group
from advgame.trainer.rewards import best_index, worst_index


@dataclass(frozen=True)
class Pair:
    """Two continuations of one prompt, the first preferred."""

    prompt_ids: list[int]
    chosen: Rollout
    rejected: Rollout
    rejected_length: int
    """How many of the rejected tokens count: all, or as many as the chosen one has where it ran into the limit."""
    gap: float
    """Difference of their rewards, > 0."""

    @property
    def group(self) -> Group:
        return Group(self.prompt_ids, [self.chosen.token_ids, self.rejected_ids])

    @property
    def rejected_ids(self) -> list[int]:
        return self.rejected.token_ids[: self.rejected_length]

    @property
    def logprobs(self) -> list[float]:
        """Of the chosen and then the rejected tokens, when they were sampled."""
        return self.chosen.logprobs + self.rejected.logprobs[: self.rejected_length]


def attacker_pairs(games: list[Game], min_gap: float = 0.0) -> list[Pair]:
    """At most one pair a seed: its best attack over its worst."""
    pairs = [_pair(game.prompt_ids, game.attacks, min_gap) for game in games]
    return [pair for pair in pairs if pair is not None]


def defender_pairs(games: list[Game], min_gap: float = 0.0) -> list[Pair]:
    """At most one pair a prompt that ended without error: its best response over its worst."""
    attacks = [attack for game in games for attack in game.prompts if attack.outcome == "no_error"]
    pairs = [_pair(attack.prompt_ids, attack.responses, min_gap) for attack in attacks]
    return [pair for pair in pairs if pair is not None]


def _pair(prompt_ids: list[int], candidates: list[Attack] | list[Response], min_gap: float) -> Pair | None:
    rewards = [candidate.reward for candidate in candidates]
    best, worst = best_index(rewards), worst_index(rewards)
    if best is None or rewards[best] == rewards[worst] or rewards[best] - rewards[worst] < min_gap:
        return None
    chosen, rejected = candidates[best].rollout, candidates[worst].rollout
    length = len(rejected.token_ids)
    if candidates[worst].outcome == "max_length":
        length = min(length, len(chosen.token_ids))
    return Pair(prompt_ids, chosen, rejected, length, rewards[best] - rewards[worst])
