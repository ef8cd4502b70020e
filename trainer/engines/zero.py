"""DeepSpeed's ZeRO: the processes share out the optimiser's state (stage 1), gradients too (2), weights too (3).

One engine for each player, in one process group, on NCCL or gloo. Weights are of the dtype of the player's products;
their masters, the optimiser's state and the moving averages are float32 shards of equal layout, one in each process.

Nothing here is global to the process: neither HfDeepSpeedConfig nor zero.Init is used, and DeepSpeed's own linear
layers (which would replace torch's everywhere) are off.
"""

import io
import logging
import os
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.nn import Parameter

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.engines.saved import MOMENTS, SavedState, part_of
from advgame.trainer.settings.schema import OptimizerConfig, ZeroConfig

BUCKET = 50_000_000
"""Numbers that are sent at a time, for which DeepSpeed keeps room: a tenth of its default."""

SHARD = 1_000_000_000
"""Numbers of a shard of stage 3 at most: AdamW steps one after another."""


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
        """[size], a view of the shard."""
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
        rounded = dtype != torch.float32
        loaded = {name: p.detach() for name, p in named.items()} if rounded else {}  # DeepSpeed's masters are rounded
        vectors = [numel(p) for p in module.parameters() if p.dim() < 2]
        settings = settings_of(config, zero, dtype, whole=max(vectors, default=0))
        beta1, beta2 = config.betas
        self._optimizer = _AdamW(groups_of(named.values(), config), lr=config.lr, betas=(beta1, beta2), fused=True)
        with redirect_stdout(io.StringIO()):  # it reports its memory
            self._engine: Any = deepspeed.initialize(model=module, optimizer=self._optimizer, config=settings)[0]
        self._parameters = named
        self._shards: list[Tensor] = masters_of(self._engine.optimizer)
        self._parked = zero.offload == "idle_player"
        if self._parked:
            self._move(torch.device("cpu"))
        self._places = {name: place_of(p, self._engine.optimizer) for name, p in named.items()}
        self.take(self._shards, loaded.items())

    def forward(self, *arguments: Any) -> Any:
        """The module's forward pass."""
        return self._engine(*arguments)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * collectives.world_size())  # DeepSpeed takes means over the processes, we sums

    def step(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        return self._step()

    def drop(self) -> float:
        self._optimizer.held = True
        try:
            return self._step()
        finally:
            self._optimizer.held = False

    def _step(self) -> float:
        if self._parked:
            self._move(collectives.device())
        self._engine.step()
        if self._parked:
            self._move(torch.device("cpu"))
        return float(self._engine.get_global_grad_norm())

    def _move(self, device: torch.device) -> None:
        """Masters and the optimiser's state."""
        states = [tensor for state in self._optimizer.state.values() for tensor in state.values()]
        for tensor in [*self._shards, *states]:
            tensor.data = tensor.data.to(device, copy=True)  # a copy even on one device, so that tests see one

    def weights(self, shards: list[Tensor] | None = None) -> Iterator[tuple[str, Tensor]]:
        """In float32. shards: of a moving average; None: the weights' own."""
        for name in self._parameters:
            yield name, self._whole(name, self._shards if shards is None else shards)

    def shards(self) -> list[Tensor]:
        return self._shards

    def whole(self, parameter: Parameter) -> Tensor:
        """A frozen parameter, in the dtype that the module has it in."""
        if not hasattr(parameter, "ds_id"):
            return parameter
        with import_deepspeed().zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    def state(self) -> dict[str, Tensor]:
        states = [self._optimizer.state.get(shard) for shard in self._shards]
        tensors = {}
        for name, place in self._places.items():
            if place and (state := states[place.shard]):
                for field in MOMENTS:
                    part = state[field].narrow(0, place.offset, place.size)
                    tensors[part_of(f"{name}/{field}", place.start)] = part.to("cpu", copy=True)
                tensors[f"{name}/step"] = state["step"].to("cpu", copy=True)
        return tensors

    def load_state(self, saved: SavedState) -> None:
        if not saved.covers(self._parameters):
            return
        for shard in self._shards:
            state = {field: torch.zeros_like(shard) for field in MOMENTS}
            self._optimizer.state[shard] = {"step": saved.step.to(shard.device)} | state
        for field in MOMENTS:
            shards = [self._optimizer.state[shard][field] for shard in self._shards]
            for name, place in self._places.items():
                if place:
                    place.of(shards).copy_(saved.read(f"{name}/{field}", place.start, place.size))

    @torch.no_grad()
    def take(self, shards: list[Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
        """Puts this process's part of each whole weight into its shards."""
        for name, whole in weights:
            if place := self._places[name]:
                place.of(shards).copy_(whole.flatten().narrow(0, place.start, place.size))

    @torch.no_grad()
    def refresh(self) -> None:
        """The module's weights follow their masters, as after a step."""
        optimizer = self._engine.optimizer
        if not hasattr(optimizer, "fp32_partitioned_groups_flat"):
            optimizer.update_lp_params()
            return
        optimizer._partition_all_parameters()
        for group in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:  # small ones, which stay whole
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    @contextmanager
    def lending(self, shards: list[Tensor]) -> Iterator[None]:
        """Inside, the module computes with other weights of the same layout, and `shards` holds its own."""
        self._exchange(shards)
        try:
            yield
        finally:
            self._exchange(shards)

    @torch.no_grad()
    def _exchange(self, shards: list[Tensor]) -> None:
        for pair in zip(self._shards, shards, strict=True):
            for own, other in zip(*(shard.split(BUCKET) for shard in pair), strict=True):
                kept = own.clone()
                own.copy_(other)
                other.copy_(kept)
        self.refresh()

    @torch.no_grad()
    def _whole(self, name: str, shards: list[Tensor]) -> Tensor:
        """A parameter, put together from all processes' parts of it."""
        parameter, place = self._parameters[name], self._places[name]
        whole = torch.zeros(numel(parameter), device=parameter.device)
        if place:
            whole.narrow(0, place.start, place.size).copy_(place.of(shards))
        dist.all_reduce(whole)
        return whole.view(getattr(parameter, "ds_shape", parameter.shape))


class _AdamW(torch.optim.AdamW):
    held = False
    """While it is, a step changes nothing."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if not self.held:
            super().step(closure)


def numel(parameter: Parameter) -> int:
    """Of the whole parameter: one that is sharded is empty."""
    return getattr(parameter, "ds_numel", parameter.numel())


def import_deepspeed() -> Any:
    """Makes a process group of one where there is none. Raises ConfigError if DeepSpeed is not installed."""
    os.environ.setdefault("DS_ACCELERATOR", collectives.device().type)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")  # of names that it uses
    try:
        import deepspeed  # slow
    except ImportError as error:
        raise ConfigError(
            "engine=zero: deepspeed is not installed; install it (pip install --no-build-isolation deepspeed==0.19.8), "
            "or set engine=single"
        ) from error
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__ = {}  # no compiling: all that it would build here is a faster all-reduce for CPUs
    if not dist.is_initialized():  # a single process
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=HashStore(), rank=0, world_size=1
        )
    return deepspeed


def groups_of(parameters: Collection[Parameter], config: OptimizerConfig) -> list[dict]:
    """AdamW's, of which DeepSpeed takes no empty one."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def settings_of(config: OptimizerConfig, zero: ZeroConfig, dtype: torch.dtype, whole: int) -> dict:
    """DeepSpeed's. whole: weights of up to so many numbers are not shared out by stage 3."""
    half = dtype == torch.bfloat16
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # as many backward passes as it takes, then one step
        "gradient_clipping": config.max_grad_norm,  # unset, it would be 1
        "bf16": {"enabled": half, "check_grad_overflow": half},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW runs on a CPU as well
        "zero_optimization": {
            "stage": zero.stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            "memory_efficient_linear": False,
            "stage3_param_persistence_threshold": whole,
            "sub_group_size": SHARD,
            "offload_optimizer": {"device": "cpu", "pin_memory": half} if zero.offload == "optimizer" else None,
        },
    }


def masters_of(optimizer: Any) -> list[Tensor]:
    """The float32 shards of DeepSpeed's optimiser."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    raise NotImplementedError(type(optimizer).__name__)


def place_of(parameter: Any, optimizer: Any) -> Place | None:
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
