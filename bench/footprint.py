"""What a step of the trainer takes from the system, which each process prints as a line of JSON.

    python bench/footprint.py [key=value …]
    torchrun --nproc-per-node=2 bench/footprint.py engine=zero [key=value …]

Two players learn and sample with real engines and samplers, by the settings of tiny but for those named. Their lessons
have the lengths that an estimate counts with, and are random tokens. Memory is bytes of this process above what it took
before the players were loaded: resident memory, or on CUDA the allocator's. What is sent is counted at the collectives,
by rings.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from support.measure import resident
from torch.utils._python_dispatch import TorchDispatchMode

from advgame.kernels.fused import release_buffers
from advgame.trainer.base import collectives
from advgame.trainer.base.memory import give_back_freed
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.estimate.plan import INSTRUCTION, SEED
from advgame.trainer.estimate.predict import PLAYERS
from advgame.trainer.learn.step import Learner, learn
from advgame.trainer.models.load import quiet
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.fresh import check_fresh
from advgame.trainer.run.players import make_learners, playing, who_plays
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config


class Memory:
    """Of this process: now, and at its largest since `settle`."""

    def settle(self) -> None:
        """Gives back what is free, and sets the high-water mark to what is left."""
        gc.collect()
        release_buffers()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        else:
            give_back_freed()
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def now(self) -> int:
        return torch.cuda.memory_allocated() if torch.cuda.is_available() else resident()

    def largest(self) -> int:
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident("VmHWM")


class Sent(TorchDispatchMode):
    """Counts the bytes that a ring of the processes would send from each in the collectives inside."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name
        if name.startswith("c10d::"):
            share = (collectives.world_size() - 1) / collectives.world_size()
            whole = {  # what is whole in the end, or was at the beginning
                "c10d::allreduce_": lambda: 2 * share * _size(args[0]),
                "c10d::allreduce_coalesced_": lambda: 2 * share * _size(args[0]),
                "c10d::allgather_": lambda: share * _size(args[0]),
                "c10d::_allgather_base_": lambda: share * _size(args[0]),
                "c10d::allgather_into_tensor_coalesced_": lambda: share * _size(args[0]),
                "c10d::_reduce_scatter_base_": lambda: share * _size(args[1]),
                "c10d::reduce_scatter_": lambda: share * _size(args[1]),
                "c10d::broadcast_": lambda: share * _size(args[0]),
                "c10d::barrier": lambda: 0.0,
            }
            self.bytes += whole[name]()
        return function(*args, **(kwargs or {}))


def _size(tensors: Any) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return sum(map(_size, tensors))


@contextmanager
def counting(into: dict[str, float], name: str) -> Iterator[None]:
    with Sent() as sent:
        yield
    into[name] = sent.bytes


def lessons(config: Config, name: str, vocab: int) -> list[Pair]:
    """Those of a step, of all processes, all as long as they may be."""
    player, attacker = getattr(config, name), name == "attacker"
    shared, own = (INSTRUCTION, SEED) if attacker else (0, SEED + config.attacker.sampling.max_new_tokens)
    games = config.batch_size // config.steps_per_batch
    count = games if attacker else games * config.attacker.samples
    new = player.sampling.max_new_tokens
    torch.manual_seed(0)
    opening = torch.randint(vocab, (shared,)).tolist()
    pairs = []
    for _ in range(count):
        prompt = opening + torch.randint(vocab, (own,)).tolist()
        samples = torch.randint(vocab, (2, new)).tolist()
        pairs.append(Pair(*(Rollout(prompt, ids, [-8.0] * new, "", True) for ids in samples)))
    return pairs


def requests(config: Config, name: str) -> list[Request]:
    """Those of a batch of rollouts on one process, in words of one token each."""
    player, attacker = getattr(config, name), name == "attacker"
    prompts = config.batch_size // collectives.world_size() * (1 if attacker else config.attacker.samples)
    shared, own = (INSTRUCTION, SEED) if attacker else (0, SEED + config.attacker.sampling.max_new_tokens)
    words = [[f"w{i % 100}" for i in range(shared)] + [f"w{p}"] + ["w1"] * (own - 3) for p in range(prompts)]
    return [Request(" ".join(text), (p, k)) for p, text in enumerate(words) for k in range(player.samples)]


def measure(config: Config) -> dict[str, dict[str, float]]:
    """Bytes: held all run long, above it at the peak of each moment, and sent."""
    memory = Memory()
    memory.settle()
    before = memory.now()
    learners: dict[str, Learner] = dict(zip(PLAYERS, make_learners(config, None), strict=True))
    samplers: dict[str, LocalSampler] = {
        name: playing(learner.policies, learner.config, name) for name, learner in learners.items()
    }
    vocab = learners["attacker"].player.model.config.vocab_size
    found: dict[str, float] = {}
    sent: dict[str, float] = {}
    for name, learner in learners.items():  # the optimiser's state is made at the first step, ZeRO's plan at the second
        learn(learner, lessons(config, name, vocab), 0)
        with counting(sent, f"the {name} learns"):
            learn(learner, lessons(config, name, vocab), 1)
    for name, learner in learners.items():
        memory.settle()
        held = memory.now()
        learn(learner, lessons(config, name, vocab), 2)
        found[f"the {name} learns"] = memory.largest() - held
        memory.settle()
        with counting(sent, f"the {name}'s sampler is filled"):
            samplers[name].load(who_plays(learner.policies, learner.config).weights(), version=1)
            check_fresh(samplers[name], who_plays(learner.policies, learner.config), name)
        memory.settle()
        held = memory.now()
        samplers[name].sample(requests(config, name), learner.config.sampling)
        found[f"the {name} samples"] = memory.largest() - held
        memory.settle()
        found["held"] = memory.now() - before
    return {"memory": found, "sent": sent}


def main() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    quiet()
    collectives.start()
    small = [f"{name}.model=tiny" for name in PLAYERS]
    measure(load_config("tiny", [*sys.argv[1:], *small]))  # once, for what is made once and kept
    found = measure(load_config("tiny", sys.argv[1:]))
    for line in collectives.gather([json.dumps(found | {"rank": collectives.rank()})]):
        if collectives.rank() == 0:
            print(line, flush=True)
    collectives.stop()
    leave(0)


if __name__ == "__main__":
    main()
