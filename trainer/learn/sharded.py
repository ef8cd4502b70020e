"""Policies whose weights are shards of a ZeRO engine: a player's own, and its moving averages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from advgame.trainer.base import collectives
from advgame.trainer.engines.zero import ZeroEngine
from advgame.trainer.learn.forward import Player
from advgame.trainer.models.policy import PlayerPolicies, Policy


@dataclass(frozen=True, kw_only=True)
class ShardedPolicy(Policy):
    """A policy that an engine holds, or a moving average of it: float32 shards of the same layout."""

    player: Player
    engine: ZeroEngine
    held: list[Tensor] | None = None
    """An average's; None for the policy itself."""

    @property
    def root(self) -> Player:
        return self.player

    @contextmanager
    def ready(self) -> Iterator[None]:
        """An average borrows the policy's place."""
        self.activate()
        if self.held is None:
            yield
        else:
            with self.engine.lending(self.held):
                yield

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return self.engine.weights(self.held)

    def gathered(self) -> dict[str, Tensor]:
        first = collectives.rank() == 0
        return {name: weight.cpu() for name, weight in self.weights() if first}

    def whole(self, parameter: nn.Parameter) -> Tensor:
        return self.engine.whole(parameter)

    def shards(self) -> list[Tensor]:
        return self.engine.shards() if self.held is None else self.held


def sharded(policies: PlayerPolicies, player: Player, engine: ZeroEngine) -> PlayerPolicies:
    """The same policies as shards; the averages begin as the policy is."""

    def average() -> list[Tensor]:
        return [shard.detach().clone() for shard in engine.shards()]

    policy = policies.policy

    def hold(held: list[Tensor] | None) -> ShardedPolicy:
        return ShardedPolicy(
            policy.model, policy.tokenizer, policy.adapter, policy.products, player=player, engine=engine, held=held
        )

    own = hold(None)
    return PlayerPolicies(
        own, own if policies.ema is policy else hold(average()), None if policies.slow is None else hold(average())
    )
