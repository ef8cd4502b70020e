"""A run's prediction: whether it fits, what a step takes, and which settings would make it fit."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.cards import MACHINE, Card
from advgame.trainer.estimate.memory import Memory, memory
from advgame.trainer.estimate.plan import INSTRUCTION, SEED, Plan, check_packs, learnt_from, plan
from advgame.trainer.estimate.shapes import Shape
from advgame.trainer.estimate.work import Traffic, Work, traffic, work
from advgame.trainer.settings.schema import Config

Change = dict[str, Any]
"""Name of a setting -> its new value."""

MOST_GPUS = 1024
PLAYERS = ("attacker", "defender")


@dataclass(frozen=True)
class Seconds:
    """Of a joint step: parts that follow each other."""

    sampling: float
    learning: float
    sending: float
    joint: float
    """A step, in which both players learn."""
    sequential: float
    """Two steps of a sequential schedule, in which each player learns once."""
    kwh: float
    """Of a joint step, on all GPUs at full power."""


@dataclass(frozen=True)
class Prediction:
    gpus: int
    plan: Plan
    memory: Memory
    limit: float
    """Bytes that a process may use."""
    work: dict[str, Work]
    traffic: dict[str, Traffic]
    seconds: Seconds | None
    """None where the card's speed is not known."""

    @property
    def fits(self) -> bool:
        return self.memory.peak <= self.limit


def predict(
    config: Config, shapes: dict[str, Shape], gpus: int, card: Card, efficiency: float, tokens: int | None = None
) -> Prediction:
    """What a run takes.

    Args:
        shapes: of both players' models.
        efficiency: share of the card's peaks that is reached, of FLOPs and of bandwidths alike.
        tokens: mean length of a sample, for work and time; None: as long as each may be. Memory is always for those.
    """
    longest, mean = (plan(config, shapes, gpus, card.cuda, length) for length in (None, tokens))
    works = {name: work(player, mean) for name, player in mean.players.items()}
    sent = {name: traffic(player, mean) for name, player in mean.players.items()}
    return Prediction(
        gpus=gpus,
        plan=longest,
        memory=memory(longest),
        limit=card.memory if card.cuda else card.memory / gpus,
        work=works,
        traffic=sent,
        seconds=seconds(mean, works, sent, card, efficiency),
    )


def seconds(
    plan: Plan, works: dict[str, Work], sent: dict[str, Traffic], card: Card, efficiency: float
) -> Seconds | None:
    """Nothing overlaps in this model: what is computed, sent and swapped takes turns. The judge takes no time."""
    speed = card.speed
    if speed is None:
        return None
    link = speed.link if plan.gpus <= MACHINE else speed.network
    sampling = learning = sending = refill = 0.0
    for name, of in works.items():
        by_flops = (of.prefill_flops + of.decode_flops) / speed.flops
        by_memory = of.prefill_flops / speed.flops + of.decoding.steps * of.decoding.bytes / speed.memory
        sampling += max(by_flops, by_memory) / plan.steps_per_batch
        learning += of.learn_flops / speed.flops + of.update_bytes / speed.memory
        sending += (sent[name].gradients + sent[name].weights) / link + sent[name].host / speed.host
        refill += (sent[name].refill + 2 * sent[name].compared) / link / plan.steps_per_batch
    joint = (sampling + learning + sending + refill) / efficiency
    return Seconds(
        sampling=sampling / efficiency,
        learning=learning / efficiency,
        sending=(sending + refill) / efficiency,
        joint=joint,
        sequential=joint + (sampling + refill) / efficiency,
        kwh=joint * speed.watts * plan.gpus / 3.6e6,
    )


def cures(config: Config, shapes: dict[str, Shape], gpus: int, card: Card) -> list[tuple[int, Change]]:
    """Ways to make a run fit that does not: (GPUs, changed settings), each without a change that is not needed.

    As it is on these GPUs, with adapters on these GPUs; and if the first cannot be, on more GPUs, up to 1,024.
    """

    def fits(gpus: int, change: Change) -> bool:
        other = changed(config, change)
        try:
            check_packs(other)
        except ConfigError:
            return False
        return predict(other, shapes, gpus, card, 1.0).fits

    def search(numbers: list[int], start: Change) -> list[tuple[int, Change]]:
        for number in numbers:
            for further in _changes(config, number, card):
                if fits(number, start | further):
                    needed = start | further
                    for name in further:
                        fewer = {other: value for other, value in needed.items() if other != name}
                        needed = fewer if fits(number, fewer) else needed
                    return [(number, needed)]
        return []

    adapters: Change = {f"{name}.lora.rank": 32 for name in PLAYERS if not getattr(config, name).lora.rank}
    more = [2**n for n in range(MOST_GPUS.bit_length()) if 2**n > gpus]
    return (search([gpus], {}) or search(more, {})) + (search([gpus], adapters) if adapters else [])


def _changes(config: Config, gpus: int, card: Card) -> Iterator[Change]:
    """From none to the most incisive: engines outside; within, what saves activations and the cache."""
    engines: list[Change] = [{}]
    if gpus > 1:
        engines += [{"engine": "zero", "zero.stage": stage, "zero.offload": "none"} for stage in (2, 3)]
        kinds = ("idle_player", "optimizer") if card.cuda else ()
        engines += [{"engine": "zero", "zero.stage": 3, "zero.offload": kind} for kind in kinds]
    savings: list[Change] = [
        {f"{name}.optimizer.checkpoint_activations": True for name in PLAYERS},
        {f"{name}.optimizer.tokens_per_pack": _smallest_pack(config, name) for name in PLAYERS},
        {f"{name}.sampling.batch_size": 8 for name in PLAYERS},
    ]
    for engine in engines:
        for count in range(len(savings) + 1):
            further: Change = reduce(lambda a, b: a | b, savings[:count], engine)
            yield {name: value for name, value in further.items() if _saves(config, name, value)}


def _smallest_pack(config: Config, name: str) -> int:
    """Tokens, of whole 256, that hold the longest prompt and its samples."""
    player = getattr(config, name)
    prompt = INSTRUCTION + SEED if name == "attacker" else SEED + config.attacker.sampling.max_new_tokens
    return 256 * math.ceil((prompt + learnt_from(player) * player.sampling.max_new_tokens) / 256)


def _saves(config: Config, name: str, value: Any) -> bool:
    """Whether the setting is another now; and not a smaller number already."""
    now = reduce(getattr, name.split("."), config)
    return bool(value < now if name.endswith(("tokens_per_pack", "batch_size")) else value != now)


def worded(change: Change) -> str:
    """As on the command line."""
    return " ".join(f"{name}={str(value).lower()}" for name, value in change.items())


def changed(config: Config, change: Change) -> Config:
    """A copy with other settings."""
    config = copy.deepcopy(config)
    for name, value in change.items():
        *sections, leaf = name.split(".")
        setattr(reduce(getattr, sections, config), leaf, value)
    return config
