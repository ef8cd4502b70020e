"""DeepSpeed's ZeRO: the processes share out the optimiser's state (stage 1), gradients too (2), weights too (3).

One engine for each player, in one process group, on NCCL or gloo. Weights are of the dtype of the player's products;
their masters, the optimiser's state and the moving averages are float32 shards of equal layout, one in each process.

Nothing here is global to the process: neither HfDeepSpeedConfig nor zero.Init is used, and DeepSpeed's own linear
layers (which would replace torch's everywhere) are off.
"""

import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import Parameter

from advgame.trainer.base import collectives
from advgame.trainer.settings.schema import OptimizerConfig, ZeroConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Of AdamW's state, what has a number for each weight."""


@dataclass(frozen=True)
class Place:
    """Where this process's part of a parameter is."""

    shard: int
    """The shard that it is in."""
    offset: int
    """Where it begins there."""
    start: int
    """Where it begins in the parameter."""
    size: int

    def of(self, shards: list[Tensor]) -> Tensor:
        """[size]"""
        return shards[self.shard].narrow(0, self.offset, self.size)


class ZeroEngine:
    """AdamW on a module's parameters that need gradients; vectors (norms, biases) are not decayed.

    Every method that moves weights or gradients is a collective: all processes must call it, and the module equally
    often.
    """

    def __init__(self, module: nn.Module, config: OptimizerConfig, zero: ZeroConfig, dtype: torch.dtype):
        """dtype: of the weights, float32 or bfloat16."""
        deepspeed = import_deepspeed()
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._optimizer = _AdamW(groups_of(named.values(), config), lr=config.lr, betas=tuple(config.betas), fused=True)
        self._engine: Any = deepspeed.initialize(
            model=module, optimizer=self._optimizer, config=settings_of(config, zero, dtype)
        )[0]
        self._parameters = named
        self._shards: list[Tensor] = masters_of(self._engine.optimizer)
        self._places = {name: place_of(p, self._engine.optimizer) for name, p in named.items()}

    def forward(self, *arguments: Any) -> Any:
        """The module's forward pass."""
        return self._engine(*arguments)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * collectives.world_size())  # DeepSpeed takes means over the processes, we sums

    def step(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def drop(self) -> float:
        self._optimizer.held = True
        try:
            self._engine.step()
        finally:
            self._optimizer.held = False
        return float(self._engine.get_global_grad_norm())

    def weights(self, shards: list[Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """In float32. shards: of a moving average; None: the weights' own."""
        for name in self._parameters:
            yield name, self._whole(name, self._shards if shards is None else shards)

    def shards(self) -> list[Tensor]:
        return self._shards

    @torch.no_grad()
    def _whole(self, name: str, shards: list[Tensor]) -> Tensor:
        """A parameter, put together from all processes' parts of it."""
        parameter, place = self._parameters[name], self._places[name]
        shape = getattr(parameter, "ds_shape", parameter.shape)  # a sharded parameter is empty
        whole = torch.zeros(math.prod(shape), device=parameter.device)
        if place:
            whole.narrow(0, place.start, place.size).copy_(place.of(shards))
        dist.all_reduce(whole)
        return whole.view(shape)


class _AdamW(torch.optim.AdamW):
    held = False
    """While it is, a step changes nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if not self.held:
            super().step(closure)


def import_deepspeed() -> Any:
    os.environ.setdefault("DS_ACCELERATOR", collectives.device().type)
    import deepspeed  # slow

    deepspeed.utils.logger.setLevel(logging.WARNING)
    return deepspeed


def groups_of(parameters: Any, config: OptimizerConfig) -> list[dict]:
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def settings_of(config: OptimizerConfig, zero: ZeroConfig, dtype: torch.dtype) -> dict:
    """DeepSpeed's."""
    half = dtype == torch.bfloat16
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # as many backward passes as it takes, then one step
        "gradient_clipping": config.max_grad_norm,  # unset, it would be 1
        "bf16": {"enabled": half, "check_grad_overflow": half},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": zero.stage,
            "overlap_comm": False,
            "memory_efficient_linear": False,
        },
    }


def masters_of(optimizer: Any) -> list[Tensor]:
    """The float32 shards of DeepSpeed's optimiser."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise NotImplementedError(type(optimizer).__name__)


def place_of(parameter: Parameter, optimizer: Any) -> Place | None:
    """Where this process has its part of a parameter; None if it has none."""
    if hasattr(parameter, "ds_id"):
        shard, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = collectives.rank() * parameter.partition_numel()
        size = min(size, parameter.ds_numel - start)  # the last part is padded
        return Place(shard, offset, start, size) if size > 0 else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    whole, part = mapping.lp_fragment_address, mapping.hp_fragment_address
    return Place(mapping.param_group_index, part.start, whole.start, part.numel)
