"""Every setting of a run, as typed dataclasses.

`setting(default, doc, …)` carries a field's meaning and unit, which `--help` prints. `resume=True` marks what may
change when a stopped run continues; any other change is refused (see run/checkpoint.py).
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, resume: bool = False
) -> Any:
    """A field with its documentation; low and high are inclusive bounds."""
    metadata = {"doc": doc, "low": low, "high": high, "resume": resume}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: Callable[[], Any], doc: str) -> Any:
    """kind: a dataclass of settings, or what makes one with other defaults."""
    return field(default_factory=kind, metadata={"doc": doc})


@dataclass
class SeedsConfig:
    files: list[str] = setting(
        ["harmful.jsonl", "benign.jsonl"],
        "JSONL files with `prompt` and `category` (harmful or benign), as paths or as names of shipped sets",
    )
    benign_share: float = setting(
        0.5, "benign ones of the seeds that are dealt; more of them make a defender that declines less", low=0, high=1
    )


Precision = Literal["auto", "float32", "bfloat16"]


@dataclass
class SamplingConfig:
    temperature: float = setting(0.6, "softmax temperature; at 0 the most probable token is taken", low=0, high=10)
    top_p: float = setting(0.9, "nucleus mass, in (0, 1]", low=1e-6, high=1)
    max_new_tokens: int = setting(2048, "tokens; a sample that has not ended by then counts as `max_length`", low=1)
    batch_size: int = setting(64, "sequences sampled at a time; affects memory, not results", low=1, resume=True)
    precision: Precision = setting(
        "auto", "of the sampler's copy of the weights; auto is bfloat16 on CUDA, and on CPUs that are fast at it"
    )


@dataclass
class ServerConfig:
    url: str = setting("http://127.0.0.1:8000/v1", "address of a server with OpenAI's chat protocol", resume=True)
    model: str | None = setting(None, "the server's name for the model")
    api_key_env: str = setting(
        "OPENAI_API_KEY",
        "name of the environment variable with the key (never the key itself); it may be unset",
        resume=True,
    )
    concurrency: int = setting(32, "concurrent requests of each process", low=1, resume=True)
    timeout: float = setting(
        120.0, "time limit of a request in seconds, from its beginning to the end of the answer", low=1, resume=True
    )
    patience: float = setting(
        30.0, "minutes without any answer after which the run is saved and stops, with exit code 75", low=0, resume=True
    )
    extra: dict[str, Any] = setting(
        {},
        "fields added to every request, such as chat_template_kwargs or response_format; null leaves a field out that "
        "a server refuses, such as seed",
    )


@dataclass
class LossConfig:
    name: Literal["dpo", "ipo", "grpo"] = setting(
        "dpo", "of pairs (dpo, ipo), or of all samples and their advantages (grpo)"
    )
    beta: float = setting(0.1, "strength of the pull towards the reference; may be 0 for grpo only", low=0)
    length_normalize: bool = setting(False, "divide the log-prob of a sequence by its number of tokens")
    label_smoothing: float = setting(
        0.0, "assumed probability that a preference is wrong (dpo only)", low=0, high=0.499
    )
    nll_weight: float = setting(
        0.0, "weight of the negative log-prob per token of the chosen response (dpo and ipo)", low=0
    )
    normalization: Literal["length_normalized", "token_mean", "sum"] = setting(
        "length_normalized", "mean of the samples' token means, mean of all tokens, or mean of the samples' sums (grpo)"
    )
    importance_cap: float | None = setting(
        None,
        "upper bound of the importance weights that correct for old samples; null: no correction (grpo)",
        low=0,
    )
    filter_eps: float = setting(
        2e-4,
        "relative error allowed in the gradient with respect to the logits, for speed; the weights' gradients can be "
        "off by 20 times as much; 0: exact",
        low=0,
        high=0.5,
    )


@dataclass
class OptimizerConfig:
    lr: float = setting(1e-6, "AdamW's learning rate, per optimiser step", low=0, resume=True)
    betas: list[float] = setting([0.9, 0.95], "AdamW's momentum coefficients")
    weight_decay: float = setting(0.1, "decoupled weight decay", low=0)
    warmup_steps: int = setting(0, "optimiser steps of linear warm-up", low=0)
    decay_steps: int = setting(
        0, "the last steps of the game, in which the rate falls linearly to nothing (a warm start's falls from its "
        "first step on)", low=0, resume=True,
    )  # fmt: skip
    max_grad_norm: float = setting(1.0, "norm to which each player's gradient is clipped; 0: no clipping", low=0)
    max_loss_ratio: float | None = setting(
        None, "a step is skipped whose loss is more than this many times the median of the last ten; null: none is "
        "(dpo and ipo)", low=1, resume=True,
    )  # fmt: skip
    tokens_per_pack: int = setting(
        8192, "tokens that each rank forwards at a time, in whole groups of a prompt and its samples; affects memory, "
        "not results", low=1, resume=True,
    )  # fmt: skip
    checkpoint_activations: bool = setting(
        False, "recompute whole layers in the backward pass, rather than norms and gated activations only: a third "
        "slower, with a fraction of the memory", resume=True,
    )  # fmt: skip


@dataclass
class LoraConfig:
    rank: int = setting(0, "rank of adapters on all linear layers but the LM head; 0: train all weights", low=0)
    alpha: float = setting(32.0, "adapters are scaled by alpha / rank", low=1e-9)


@dataclass
class PlayerConfig:
    model: str = setting(
        "smollm2-135m",
        "a Hugging Face model folder, a .gguf file, `smollm2-135m`, `smollm2-135m-attacker` or `smollm2-135m-defender` "
        "(which a warm start taught), `tiny` (random weights), `arena-attacker` or `arena-defender`",
    )
    train: bool = setting(True, "false: the player is frozen")
    samples: int = setting(2, "samples for each prompt: A for the attacker, D for the defender", low=1)
    ema_decay: float = setting(
        0.95,
        "decay per step of the moving average, which samples and is the reference; 1: it stays as the run began",
        low=0,
        high=1,
    )
    reference_decay: float | None = setting(
        None,
        "decay of a second, slower moving average, which is then the reference; null: none",
        low=0,
        high=1,
    )
    sample_from: Literal["ema", "policy"] = setting(
        "ema", "which weights play: the moving average (off-policy) or the policy itself (on-policy)"
    )
    reference: Literal["rollout", "recompute"] = setting(
        "rollout",
        "the reference's log-probs: those of the moving average when it sampled (free), or as it is now",
    )
    min_gap: float = setting(0.0, "smallest difference between the rewards of a pair (dpo and ipo)", low=0)
    first_tokens: int | None = setting(
        None,
        "a pair's two completions are learnt from up to this token, for a player whose first words decide (dpo and "
        "ipo); null: to their ends",
        low=1,
    )
    lora: LoraConfig = section(LoraConfig, "adapters over a frozen model, which players with the same model share")
    precision: Precision = setting(
        "auto",
        "of the training step's matrix products; weights, sums, norms and optimiser are float32. auto: bfloat16 on "
        "CUDA, and on CPUs that are fast at it",
    )
    sampling: SamplingConfig = section(SamplingConfig, "how the player samples")
    loss: LossConfig = section(LossConfig, "what the player minimises")
    optimizer: OptimizerConfig = section(OptimizerConfig, "how it is minimised")


@dataclass
class AttackerConfig(PlayerConfig):
    format: Literal["think_prompt", "prompt_only", "any_prompt"] = setting(
        "think_prompt",
        "what the attacker must write: <think>…</think> and <prompt>…</prompt>, the latter only, or any text before it",
    )
    judge: Literal["pairwise", "pointwise", "none"] = setting(
        "pairwise",
        "how responses are scored for the attacker; none: every valid attack gets 0",
    )
    reward_from: Literal["best", "first", "mean"] = setting(
        "best",
        "the responses that count: the one with the defender's highest reward, the first valid one, or the mean of all",
    )
    learn_from_malformed: bool = setting(
        True, "false: attacks that are cut off or not in the format are left out of the attacker's pairs and groups"
    )
    learn_from_benign: bool = setting(
        True, "false: all attacks on benign seeds are left out of them, so that it learns one trade instead of two"
    )


@dataclass
class DefenderConfig(PlayerConfig):
    format: Literal["any", "think_any", "think_answer"] = setting(
        "any",
        "what the defender must write: anything, <think>…</think> and anything, or <think>…</think><answer>…</answer>",
    )
    instruction: str = setting("", "a sentence added to every attack that the defender is shown")
    judge: Literal["pairwise", "pointwise", "none"] = setting(
        "pairwise", "how responses are scored for the defender; none: every valid response gets 0"
    )
    replay_seeds: bool = setting(False, "the defender also answers the plain seeds, and learns from them")
    condition_on: Literal["prompt", "seed"] = setting(
        "prompt", "the query on which responses are judged: the attack (prompt) or the seed"
    )


@dataclass
class JudgeConfig:
    kind: Literal["phrases", "model", "server", "arena"] = setting(
        "phrases",
        "phrases: phrases and shared words, for demos only; model: a language model; server: a language model on a "
        "server; arena: exact, for the arena's language only",
    )
    model: str | None = setting(None, "the judge's model, as for a player (kind=model)")
    server: ServerConfig = section(ServerConfig, "the server with the judge's model (kind=server)")
    faithfulness: bool = setting(True, "discard attacks that do not keep the meaning of their seed")
    success_score: float = setting(
        5.0,
        "score, out of 10, from which an attack is successful and a response compliant",
        low=0,
        high=10,
    )
    offset: float = setting(
        0.0,
        "standard deviation, in points of 10, of an error shared by a call's scores; for experiments, kind=arena only",
        low=0,
    )
    noise: float = setting(
        0.0, "standard deviation, in points of 10, of each score's own error; for experiments, kind=arena only", low=0
    )
    sampling: SamplingConfig = section(SamplingConfig, "how verdicts are sampled (kind=model and kind=server)")


@dataclass
class EvalConfig:
    every: int = setting(
        0, "steps between evaluations; there is also one before the first step and one after the last; 0: none", low=0
    )
    seeds: list[str] = setting([], "JSONL files of held-out seeds, as in seeds.files")
    attacks: list[str] = setting(
        [],
        "JSONL files of held-out attacks: `prompt`, `category`, and the `seed` to judge them on (default: the prompt)",
    )
    wrappings: list[str] = setting(
        [], "JSONL files of wrappings: every held-out seed in one of them is a held-out attack, too"
    )
    limit: int | None = setting(64, "largest number of seeds, and of attacks; null: all", low=1)
    greedy: bool = setting(False, "take the most probable tokens instead of sampling as in training")


@dataclass
class CheckpointConfig:
    every: int = setting(50, "steps between checkpoints; the last step always has one", low=1, resume=True)
    keep: int = setting(2, "number of checkpoints kept, the newest ones", low=1, resume=True)


@dataclass
class AlarmsConfig:
    idle_steps: int = setting(
        10, "an alarm is raised when a player has had nothing to learn from for this many steps", low=1, resume=True
    )
    stop_when_idle: bool = setting(False, "such an alarm ends the run, as an error; its state is saved", resume=True)
    skipped_steps: int = setting(
        5, "the run stops when this many steps of a player in a row had to be skipped, because a loss, a gradient or "
        "a log-prob was not finite or by max_loss_ratio", low=1, resume=True,
    )  # fmt: skip


@dataclass
class ReportConfig:
    grid_intensity: float | None = setting(
        None,
        "g CO2e per kWh of your electricity, for the carbon in resources.json; null: none is given",
        low=0,
        resume=True,
    )


@dataclass
class ZeroConfig:
    stage: Literal[0, 1, 2, 3] = setting(
        3, "what the ranks share out: the optimiser's state (1), gradients too (2), weights too (3); 0: nothing",
        resume=True,
    )  # fmt: skip
    offload: Literal["none", "optimizer", "idle_player"] = setting(
        "none",
        "what is in the memory of the host: float32 weights and the optimiser's state, for good (optimizer: AdamW then "
        "runs on the CPU), or but for the player's own steps (idle_player)",
        resume=True,
    )


@dataclass
class Config:
    output_dir: str = setting("runs/default", "folder of all output; an unfinished run in it is resumed", resume=True)
    seed: int = setting(0, "seed of all random numbers", low=0)
    steps: int = setting(1000, "optimiser steps of the run", low=1, resume=True)
    batch_size: int = setting(16, "B, seeds per batch of rollouts, over all ranks", low=1)
    steps_per_batch: int = setting(
        4, "optimiser steps per batch of rollouts; each trains on an equal share of its seeds", low=1
    )
    schedule: Literal["joint", "sequential"] = setting(
        "joint", "joint: both players learn at every step; sequential: they take turns, the attacker first"
    )
    steps_per_turn: int = setting(50, "steps of each turn (sequential)", low=1)
    engine: Literal["single", "zero"] = setting(
        "single", "who holds the weights: every rank all of them (single), or the ranks together by DeepSpeed (zero)",
        resume=True,
    )  # fmt: skip
    zero: ZeroConfig = section(ZeroConfig, "what ranks share out, and what the host keeps (engine=zero)")
    attention: Literal["auto", "aten", "fa3", "fa4"] = setting(
        "auto",
        "on CUDA, whose FlashAttention runs: torch's own (aten), flash-attn-3 (fa3) or flash-attn-4 (fa4); auto: the "
        "newest that is installed and made for the card",
        resume=True,
    )
    templates: str | None = setting(
        None,
        "folder whose .txt files replace shipped templates of the same name; `small`: for small models; `taught`: in "
        "few words, for players that a warm start has taught",
    )
    seeds: SeedsConfig = section(SeedsConfig, "the queries that games start from")
    attacker: AttackerConfig = section(AttackerConfig, "the player that rewrites queries")
    defender: DefenderConfig = section(DefenderConfig, "the player that answers")
    judge: JudgeConfig = section(JudgeConfig, "who scores")
    eval: EvalConfig = section(EvalConfig, "how the players are measured during training")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "when the run is saved")
    alarms: AlarmsConfig = section(AlarmsConfig, "when a run that does not learn says so, or stops")
    report: ReportConfig = section(ReportConfig, "the report at the end of the run")


def shares_out(config: Config) -> bool:
    """Whether the ranks share out what each would otherwise hold whole."""
    return config.engine == "zero" and config.zero.stage > 0


@dataclass
class RedTeamConfig(Config):
    """Those of a run, and of the server that is attacked: its address and its model are given by options."""

    target: ServerConfig = section(ServerConfig, "the server that is attacked (--target URL)")


@dataclass
class ComplyConfig:
    plain: float = setting(0.0, "share of those that are shown as they are", low=0, high=1)
    light: float = setting(0.12, "share of those in a light wrapping", low=0, high=1)
    heavy: float = setting(0.85, "share of those in a heavy wrapping", low=0, high=1)


@dataclass
class TaughtAttackerConfig:
    format: Literal["prompt_only", "any_prompt"] = setting(
        "prompt_only", "which of the game's formats it is asked for; it is taught to write no thoughts"
    )
    sampling: SamplingConfig = section(partial(SamplingConfig, max_new_tokens=96), "how it samples for the report")


@dataclass
class TaughtDefenderConfig:
    instruction: str = setting("", "a sentence added to every query, as in the game")
    comply: ComplyConfig = section(
        ComplyConfig, "how many of the harmful queries it is taught to comply with, in answers without content"
    )
    first_tokens_weight: float = setting(
        6.0, "weight of an answer's first 3 tokens, which decide; that of the others is 1", low=1, high=1000
    )
    short_share: float = setting(
        0.66, "share of the answers that are cut to 8 tokens: the decision is what is taught", low=0, high=1
    )
    sampling: SamplingConfig = section(partial(SamplingConfig, max_new_tokens=64), "how it samples for the report")


@dataclass
class HeldOutConfig:
    seeds: list[str] = setting([], "JSONL files of seeds or look-alikes, as in seeds.files; []: no report", resume=True)
    wrappings: list[str] = setting([], "JSONL files of wrappings, in which a defender is shown the seeds", resume=True)
    limit: int | None = setting(
        64, "largest number of harmful seeds, and of benign ones; null: all", low=1, resume=True
    )


@dataclass
class WarmstartConfig:
    """Of `advgame warmstart`: a player is taught the game by examples, before it plays."""

    output_dir: str = setting("runs/warmstart", "folder of all output; an unfinished run in it is resumed", resume=True)
    player: Literal["attacker", "defender"] = setting("defender", "who is taught")
    model: str = setting("smollm2-135m", "what it starts from, as for a player of the game")
    pairs: list[str] = setting(
        ["players/look-alikes.jsonl"], "JSONL files of look-alikes, as paths or as names of shipped sets"
    )
    wrappings: list[str] = setting(
        ["players/wrappings.jsonl"], "JSONL files of wrappings, as paths or as names of shipped sets"
    )
    seed: int = setting(0, "seed of all random numbers", low=0)
    examples: int = setting(1920, "number of examples that it is shown, in whole steps", low=1)
    batch_size: int = setting(16, "examples of an optimiser step", low=1)
    templates: str | None = setting("taught", "as in the game; null: the shipped templates")
    lora: LoraConfig = section(LoraConfig, "an adapter over the frozen model, which is then what is saved")
    precision: Precision = setting("auto", "of matrix products, as for a player of the game")
    attacker: TaughtAttackerConfig = section(TaughtAttackerConfig, "what an attacker is taught (player=attacker)")
    defender: TaughtDefenderConfig = section(TaughtDefenderConfig, "what a defender is taught (player=defender)")
    optimizer: OptimizerConfig = section(
        partial(OptimizerConfig, lr=1e-4, betas=[0.9, 0.98], weight_decay=0.01, warmup_steps=10), "how it is taught"
    )
    checkpoint: CheckpointConfig = section(partial(CheckpointConfig, keep=1), "when the run is saved")
    held_out: HeldOutConfig = section(HeldOutConfig, "what the player is measured on at the end")
    judge: JudgeConfig = section(JudgeConfig, "who scores the report")


Settings = Config | WarmstartConfig
"""Of a run, of either kind."""


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """(dotted name, field, value) of every setting, without the sections, in order of declaration."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f, value
