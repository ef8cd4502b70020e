"""What each GPU holds and does in a run, from its settings: sizes and counts, before any arithmetic on them."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.shapes import Shape, read_shape
from advgame.trainer.models.precision import dtype_of_products
from advgame.trainer.rollouts.local import WAVE
from advgame.trainer.settings.schema import Config, PlayerConfig, ZeroConfig, shares_out

INSTRUCTION = 320
"""Tokens that all prompts of the attacker begin with: those of the shipped templates' 1,400 characters."""
SEED = 64
"""Tokens of a seed, and of what a chat template adds to a prompt."""


@dataclass(frozen=True)
class Sampling:
    """What a player samples on one GPU at a time: for a batch of rollouts, or in an evaluation."""

    prompts: int
    """Distinct ones."""
    samples: int
    shared: int
    """Tokens that all prompts begin with, which are stored once."""
    own: int
    """Further tokens of a prompt."""
    new: int
    """Tokens of a sample."""
    slots: int
    """Samples that grow at a time."""
    bytes: int
    """Of a number in the sampler's copy of the weights, and in its cache."""

    @property
    def in_cache(self) -> int:
        """Prompts that are in the cache at a time."""
        return min(self.prompts, math.ceil(WAVE * self.slots * self.prompts / self.samples))


@dataclass(frozen=True)
class Learning:
    """What a player learns from on one GPU, at each step that is its turn."""

    packs: int
    tokens: int
    """Of a pack."""
    responses: int
    """Of a pack's tokens, those that reach the LM head."""
    scores: float
    """Query-key pairs of a pack, in one head."""
    bytes: int
    """Of a number in a matrix product."""
    keeps: Literal["cheap", "layers"]
    """What the backward pass computes again; see learn/recompute.py."""
    recomputes_reference: bool
    rank: int
    """Of the adapter that learns; 0: the whole model does."""


@dataclass(frozen=True)
class Player:
    shape: Shape
    trained: int
    """Parameters that learn: the model's or the adapter's; 0 if the player is frozen."""
    own: int
    """Parameters that are its own: the model's, or the adapter's over a model that learns nothing."""
    averages: int
    """Moving averages of its own parameters."""
    sampling: Sampling
    evaluation: Sampling | None
    """None if the run has none."""
    learning: Learning

    @property
    def base(self) -> int:
        """Parameters of the frozen model under an adapter."""
        return 0 if self.own == self.shape.parameters else self.shape.parameters


@dataclass(frozen=True)
class Plan:
    """A run on `gpus` GPUs, all of which do the same."""

    attacker: Player
    defender: Player
    one_base: bool
    """Both players are adapters over the same model, which a GPU holds once."""
    sharded: bool
    """False: every GPU holds all of both players."""
    zero: ZeroConfig
    gpus: int
    steps_per_batch: int
    cuda: bool

    @property
    def players(self) -> dict[str, Player]:
        return {"attacker": self.attacker, "defender": self.defender}


def plan(config: Config, shapes: dict[str, Shape], gpus: int, cuda: bool, tokens: int | None = None) -> Plan:
    """What `gpus` processes do together.

    Args:
        shapes: of both players' models, by the players' names.
        cuda: False for processors.
        tokens: mean length of a sample; None: as long as each player's may be.
    """
    attacker, defender = config.attacker, config.defender
    written, answered = (
        min(tokens or player.sampling.max_new_tokens, player.sampling.max_new_tokens) for player in (attacker, defender)
    )
    seeds = math.ceil(config.batch_size / gpus)
    attacks = seeds * attacker.samples
    queries = attacks + (seeds if defender.replay_seeds else 0)
    lessons = config.batch_size // config.steps_per_batch  # of all GPUs: games of a step
    held_out = _held_out(config, gpus)
    one_base = bool(attacker.lora.rank and defender.lora.rank and attacker.model == defender.model)
    return Plan(
        attacker=_player(
            attacker, shapes["attacker"],
            _sampling(attacker, shapes["attacker"], cuda, seeds, INSTRUCTION, SEED, written),
            _evaluation(attacker, shapes["attacker"], cuda, held_out, INSTRUCTION, SEED, written),
            _learning(attacker, shapes["attacker"], cuda, math.ceil(lessons / gpus), INSTRUCTION, SEED, written),
        ),
        defender=_player(
            defender, shapes["defender"],
            _sampling(defender, shapes["defender"], cuda, queries, 0, SEED + written, answered),
            _evaluation(defender, shapes["defender"], cuda, _shown(config) * held_out, 0, SEED + written, answered),
            _learning(
                defender, shapes["defender"], cuda, math.ceil(lessons * queries / seeds / gpus), 0, SEED + written,
                answered,
            ),
        ),
        one_base=one_base and not shares_out(config),
        sharded=shares_out(config),
        zero=config.zero,
        gpus=gpus,
        steps_per_batch=config.steps_per_batch,
        cuda=cuda,
    )  # fmt: skip


def shapes_of(config: Config) -> dict[str, Shape]:
    """Of both players' models. Raises ConfigError for one that is not known."""
    return {
        name: read_shape(player.model, f"{name}.model")
        for name, player in (("attacker", config.attacker), ("defender", config.defender))
    }


def _player(
    config: PlayerConfig, shape: Shape, sampling: Sampling, evaluation: Sampling | None, learning: Learning
) -> Player:
    own = shape.adapter(config.lora.rank) if config.lora.rank else shape.parameters
    return Player(
        shape=shape,
        trained=own if config.train else 0,
        own=own,
        averages=1 if config.reference_decay is None else 2,
        sampling=sampling,
        evaluation=evaluation,
        learning=learning,
    )


def _sampling(
    config: PlayerConfig, shape: Shape, cuda: bool, prompts: int, shared: int, own: int, new: int
) -> Sampling:
    samples = prompts * config.samples
    return Sampling(
        prompts=prompts,
        samples=samples,
        shared=shared,
        own=own,
        new=new,
        slots=min(config.sampling.batch_size, samples),
        bytes=dtype_of_products(config.sampling.precision, shape.hidden, cuda).itemsize,
    )


def _held_out(config: Config, gpus: int) -> float:
    """Seeds of an evaluation, on one GPU."""
    if not config.eval.every:
        return 0
    return math.inf if config.eval.limit is None else math.ceil(config.eval.limit / gpus)


def _shown(config: Config) -> int:
    """Attacks in an evaluation for each seed: current, initial and plain ones, and those that somebody wrote."""
    return 3 + bool(config.eval.attacks) + bool(config.eval.wrappings)


def _evaluation(
    config: PlayerConfig, shape: Shape, cuda: bool, prompts: float, shared: int, own: int, new: int
) -> Sampling | None:
    """One sample of each prompt. Of more than the cache takes at a time, or of nobody knows how many, so many."""
    held = int(min(prompts, WAVE * config.sampling.batch_size))
    return _sampling(replace(config, samples=1), shape, cuda, held, shared, own, new) if held else None


def _learning(config: PlayerConfig, shape: Shape, cuda: bool, groups: int, shared: int, own: int, new: int) -> Learning:
    """groups: prompts that a GPU learns from in a step, each with its samples."""
    k, budget = learnt_from(config), config.optimizer.tokens_per_pack
    group = own + k * (new - 1)
    together = max(1, min(groups, (budget - shared) // group))
    return Learning(
        packs=math.ceil(groups / together),
        tokens=shared + together * group,
        responses=together * k * new,
        scores=shared**2 / 2 + together * (own * (shared + own / 2) + k * new * (shared + own + new / 2)),
        bytes=dtype_of_products(config.precision, shape.hidden, cuda).itemsize,
        keeps="layers" if config.optimizer.checkpoint_activations else "cheap",
        recomputes_reference=config.reference == "recompute",
        rank=config.lora.rank,
    )


def check_packs(config: Config) -> None:
    """Raises ConfigError if a prompt, by the lengths assumed here, and its samples fit into no pack."""
    written = config.attacker.sampling.max_new_tokens
    for name, prompt in (("attacker", INSTRUCTION + SEED), ("defender", SEED + written)):
        player = getattr(config, name)
        k, new, budget = learnt_from(player), player.sampling.max_new_tokens, player.optimizer.tokens_per_pack
        if player.train and prompt + k * (new - 1) > budget:
            raise ConfigError(
                f"{name}.optimizer.tokens_per_pack={budget}: a prompt of about {prompt} tokens and {k} samples of "
                f"{name}.sampling.max_new_tokens={new} do not fit; set tokens_per_pack to {prompt + k * (new - 1)} "
                "or more"
            )


def learnt_from(config: PlayerConfig) -> int:
    """Samples of a prompt that a step learns from."""
    return config.samples if config.loss.name == "grpo" else 2
