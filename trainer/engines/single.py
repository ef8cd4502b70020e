"""Plain data parallelism: every process holds all weights and takes the same AdamW step."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import Parameter

from advgame.trainer.base import collectives
from advgame.trainer.engines.saved import MOMENTS, SavedState
from advgame.trainer.settings.schema import OptimizerConfig


class SingleEngine:
    """AdamW on these parameters; vectors (norms, biases) are not decayed."""

    def __init__(self, parameters: Iterable[tuple[str, Parameter]], config: OptimizerConfig):
        self._parameters = dict(parameters)
        self._max_grad_norm = config.max_grad_norm or math.inf
        matrices = [p for p in self._parameters.values() if p.dim() >= 2]
        vectors = [p for p in self._parameters.values() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        beta1, beta2 = config.betas
        self._optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(beta1, beta2), fused=True)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        norm = self._reduce()
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def drop(self) -> float:
        norm = self._reduce()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._parameters.items()

    def shards(self) -> list[Tensor]:
        return list(self._parameters.values())

    def state(self) -> dict[str, Tensor]:
        """In the first process; the others hold the same."""
        if collectives.rank() != 0:
            return {}
        return {
            f"{name}/{field}": value
            for name, parameter in self._parameters.items()
            for field, value in self._optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, saved: SavedState) -> None:
        if not saved.covers(self._parameters):
            return
        for name, parameter in self._parameters.items():
            state = self._optimizer.state[parameter]
            state["step"] = saved.step.to(parameter.device)
            for field in MOMENTS:
                state[field] = saved.read(f"{name}/{field}", 0, parameter.numel()).view_as(parameter).to(parameter)

    def _reduce(self) -> float:
        """Sums the gradients over the processes and clips them. Returns their norm before.

        Where the square of a gradient overflows, so does the norm: AdamW's second moments never do.
        """
        parameters = self._parameters.values()
        collectives.sum_([gradient(parameter) for parameter in parameters])
        return torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm).item()


def gradient(parameter: Parameter) -> Tensor:
    """Of the loss by now; zeros if the loss does not depend on the parameter."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
