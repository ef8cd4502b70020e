"""Every setting of a run: typed dataclasses, read from YAML and dotted overrides, checked before any work.

`setting(default, doc, …)` carries a field's meaning and unit; `--help` prints it. `resume=True` marks what may
change when a stopped run goes on; any other change is refused (see checkpoint.check_same_run).
"""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).parent / "configs"


class ConfigError(ValueError):
    """A setting is wrong; the message names the field, the value and the fix."""


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, resume: bool = False
) -> Any:
    """A dataclass field with its documentation; low and high are inclusive bounds."""
    metadata = {"doc": doc, "low": low, "high": high, "resume": resume}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type, doc: str) -> Any:
    return field(default_factory=kind, metadata={"doc": doc})


@dataclass
class SeedsConfig:
    files: list[str] = setting(
        ["harmful.jsonl", "benign.jsonl"],
        "JSONL files with `prompt` and `category` (harmful or benign); paths, or names of the shipped sets",
    )


@dataclass
class SamplingConfig:
    temperature: float = setting(0.6, "softmax temperature; 0 takes the most probable token", low=0, high=10)
    top_p: float = setting(0.9, "nucleus mass, in (0, 1]", low=1e-6, high=1)
    max_new_tokens: int = setting(2048, "tokens; a sample that has not ended by then is `max_length`", low=1)
    batch_size: int = setting(64, "sequences sampled at a time; costs memory, not results", low=1, resume=True)


@dataclass
class ServerConfig:
    url: str = setting(
        "http://127.0.0.1:8000/v1", "address of a server that speaks OpenAI's chat protocol", resume=True
    )
    model: str | None = setting(None, "the model, by the name that the server knows it by")
    api_key_env: str = setting(
        "OPENAI_API_KEY",
        "name of the environment variable that holds the key (never the key itself); may be unset",
        resume=True,
    )
    concurrency: int = setting(32, "requests at a time, of each process", low=1, resume=True)
    timeout: float = setting(120.0, "seconds that a request may take", low=1, resume=True)


@dataclass
class LossConfig:
    name: Literal["dpo", "ipo", "grpo"] = setting("dpo", "on pairs (dpo, ipo), or on all samples' advantages (grpo)")
    beta: float = setting(0.1, "strength of the pull towards the reference; only with grpo it may be 0", low=0)
    length_normalize: bool = setting(False, "divide each log-prob sum by its number of tokens")
    label_smoothing: float = setting(
        0.0, "probability that a preference is taken as flipped (dpo only)", low=0, high=0.499
    )
    nll_weight: float = setting(0.0, "weight of the chosen response's negative log-prob per token (dpo and ipo)", low=0)
    normalization: Literal["length_normalized", "token_mean", "sum"] = setting(
        "length_normalized", "mean over samples of their token means, over all tokens, or over samples of sums (grpo)"
    )
    importance_cap: float | None = setting(
        None,
        "truncates the ratio of policy to sampler that corrects for old samples; null: no correction (grpo)",
        low=0,
    )
    filter_eps: float = setting(
        2e-4,
        "relative error allowed in the gradient by the logits, for speed; the weights' gradients are off by up to 20 "
        "times as much; 0 allows none",
        low=0,
        high=0.5,
    )


@dataclass
class OptimizerConfig:
    lr: float = setting(1e-6, "AdamW learning rate, per optimiser step", low=0, resume=True)
    betas: list[float] = setting([0.9, 0.95], "AdamW momentum coefficients")
    weight_decay: float = setting(0.1, "decoupled weight decay", low=0)
    warmup_steps: int = setting(0, "optimiser steps of linear warm-up", low=0)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm, per player; 0 turns it off", low=0)
    tokens_per_pack: int = setting(
        8192, "tokens forwarded at a time on each rank, whole groups of a prompt and its samples; costs memory, not "
        "results", low=1, resume=True,
    )  # fmt: skip
    checkpoint_activations: bool = setting(
        False, "recompute whole layers in the backward pass, not their norms and gated activations alone: a third "
        "slower, for a fraction of the memory", resume=True,
    )  # fmt: skip


@dataclass
class LoraConfig:
    rank: int = setting(0, "rank of an adapter on every linear layer but the LM head; 0 trains all weights", low=0)
    alpha: float = setting(32.0, "the adapter counts alpha / rank times", low=1e-9)


@dataclass
class PlayerConfig:
    model: str = setting(
        "smollm2-135m",
        "a Hugging Face model folder, a .gguf file, `smollm2-135m`, `tiny` (random weights), `arena-attacker` or "
        "`arena-defender`",
    )
    train: bool = setting(True, "false freezes the player")
    samples: int = setting(2, "samples per input: A for the attacker, D for the defender", low=1)
    ema_decay: float = setting(
        0.95,
        "decay per step of the moving average that samples and is the reference; 1 keeps what the run began with",
        low=0,
        high=1,
    )
    reference_decay: float | None = setting(
        None,
        "decay of a second, slower moving average that is the reference instead; null: there is none",
        low=0,
        high=1,
    )
    sample_from: Literal["ema", "policy"] = setting(
        "ema", "who plays: the moving average (off-policy), or the policy as it is (on-policy)"
    )
    reference: Literal["rollout", "recompute"] = setting(
        "rollout",
        "where the reference's log-probs come from: from the moving average as it sampled (free), or as it is now",
    )
    min_gap: float = setting(0.0, "a pair's rewards differ by at least this much (dpo and ipo)", low=0)
    lora: LoraConfig = section(LoraConfig, "adapters over a frozen model, which players of the same model share")
    sampling: SamplingConfig = section(SamplingConfig, "how the player samples")
    loss: LossConfig = section(LossConfig, "what the player minimises")
    optimizer: OptimizerConfig = section(OptimizerConfig, "how it is minimised")


@dataclass
class AttackerConfig(PlayerConfig):
    format: Literal["think_prompt", "prompt_only", "any_prompt"] = setting(
        "think_prompt",
        "what the attacker must write: <think>…</think><prompt>…</prompt>, or only, or any text and",
    )
    judge: Literal["pairwise", "pointwise", "none"] = setting(
        "pairwise",
        "how the defender's responses are scored for the attacker; none: every valid prompt gets 0",
    )
    reward_from: Literal["best", "first", "mean"] = setting(
        "best",
        "what counts: the defender's best response under its own reward, its first valid one, or all, on average",
    )


@dataclass
class DefenderConfig(PlayerConfig):
    format: Literal["any", "think_any", "think_answer"] = setting(
        "any",
        "what the defender must write: anything, <think>…</think> and anything, or and <answer>…</answer>",
    )
    instruction: str = setting("", "a sentence put after every prompt that the defender is shown")
    judge: Literal["pairwise", "pointwise", "none"] = setting(
        "pairwise", "how its responses are scored; none: every valid response gets 0"
    )
    replay_seeds: bool = setting(False, "the defender also answers, and learns from, the plain seeds")
    condition_on: Literal["prompt", "seed"] = setting(
        "prompt", "the query that its responses are judged on: the attacker's prompt, or the seed"
    )


@dataclass
class JudgeConfig:
    kind: Literal["rules", "model", "server", "arena"] = setting(
        "rules",
        "rules: phrases and word overlap, for demos only; model: a language model as judge; server: one that runs "
        "elsewhere; arena: exact, for the arena's language only",
    )
    model: str | None = setting(None, "the judge's model, as for a player; needed by kind=model")
    server: ServerConfig = section(ServerConfig, "where the judge's model runs (kind=server)")
    faithfulness: bool = setting(True, "discard prompts that do not keep the meaning of their seed")
    success_score: float = setting(
        5.0,
        "score out of 10 from which an attack counts as successful, a response as compliant",
        low=0,
        high=10,
    )
    offset: float = setting(
        0.0,
        "standard deviation, out of 10, of an error shared by the scores of a call; for experiments, kind=arena only",
        low=0,
    )
    noise: float = setting(
        0.0, "standard deviation, out of 10, of an error of each score; for experiments, kind=arena only", low=0
    )
    sampling: SamplingConfig = section(SamplingConfig, "how kind=model and kind=server sample their verdicts")


@dataclass
class EvalConfig:
    every: int = setting(0, "steps between evaluations, the first before step 1, one after the last; 0: none", low=0)
    seeds: list[str] = setting([], "JSONL files of held-out seeds, as in seeds.files")
    attacks: list[str] = setting(
        [],
        "JSONL files of held-out attacks: `prompt`, `category`, and the `seed` that it is judged on (else the prompt)",
    )
    limit: int | None = setting(64, "at most so many seeds, and so many attacks; null: all", low=1)
    greedy: bool = setting(False, "the most probable tokens, instead of samples as in training")


@dataclass
class CheckpointConfig:
    every: int = setting(50, "steps between checkpoints; one is always written at the end", low=1, resume=True)
    keep: int = setting(2, "newest checkpoints kept", low=1, resume=True)


@dataclass
class ReportConfig:
    grid_intensity: float | None = setting(
        None,
        "g CO2e per kWh of your electricity, for the carbon in resources.json; null: none is claimed",
        low=0,
        resume=True,
    )


@dataclass
class Config:
    output_dir: str = setting("runs/default", "everything is written here; an unfinished run goes on", resume=True)
    seed: int = setting(0, "of every random draw", low=0)
    steps: int = setting(1000, "optimiser steps of the run", low=1, resume=True)
    batch_size: int = setting(16, "B, seeds per batch of rollouts, over all ranks", low=1)
    steps_per_batch: int = setting(
        4, "optimiser steps per batch of rollouts; each trains on an equal share of its seeds", low=1
    )
    schedule: Literal["joint", "sequential"] = setting(
        "joint", "both players learn at every step, or they take turns, the attacker first, against a frozen opponent"
    )
    steps_per_turn: int = setting(
        50, "steps of a turn; two turns, the attacker's and the defender's, are a round (sequential)", low=1
    )
    templates: str | None = setting(
        None, "folder whose .txt files replace the shipped templates of the same name; `small`: for tiny models"
    )
    seeds: SeedsConfig = section(SeedsConfig, "the queries that the game starts from")
    attacker: AttackerConfig = section(AttackerConfig, "the player that rewrites queries")
    defender: DefenderConfig = section(DefenderConfig, "the player that answers")
    judge: JudgeConfig = section(JudgeConfig, "who scores")
    eval: EvalConfig = section(EvalConfig, "how the players are measured while they train")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "when the run is saved")
    report: ReportConfig = section(ReportConfig, "what is said of the run at its end")


def load_config(files: str | list[str] | None, overrides: list[str]) -> Config:
    """The defaults, then the YAML files in order (the shipped demo when None), then `key=value` overrides, checked."""
    config = OmegaConf.structured(Config)
    for file in [files] if isinstance(files, str) else files or ["demo"]:
        config = _merge(config, _read_yaml(resolve_config(file)), file)
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"{override!r}: expected key=value, for example steps=20")
        config = _merge(config, _read_override(override), "command line")
    try:
        loaded = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {_first_line(error)}") from error
    check(loaded)
    return loaded


def resolve_config(name: str) -> Path:
    """A path to a YAML file, or the name of a shipped config, such as `tiny` or `variants/ipo`."""
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    raise ConfigError(f"--config {name}: no such file; shipped configs are {', '.join(shipped_configs())}")


def shipped_configs(folder: str = "") -> list[str]:
    """Their names, those in subfolders last."""
    names = [path.relative_to(CONFIGS).with_suffix("").as_posix() for path in (CONFIGS / folder).rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """(dotted name, field, value) of every setting, sections left out, in the order of declaration."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f, value


def check(config: Config) -> None:
    """Ranges, and settings that contradict each other. Raises ConfigError."""
    for name, f, value in fields(config):
        low, high = f.metadata["low"], f.metadata["high"]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number")
        if value is None or (low is None and high is None):
            continue
        if not ((low is None or value >= low) and (high is None or value <= high)):
            bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise ConfigError(f"{name}={value}: must be {bounds}")
    if config.batch_size % config.steps_per_batch:
        raise ConfigError(
            f"steps_per_batch={config.steps_per_batch} does not divide batch_size={config.batch_size}; "
            f"the nearest value that does is {_nearest_divisor(config.batch_size, config.steps_per_batch)}"
        )
    if not (config.attacker.train or config.defender.train):
        raise ConfigError("attacker.train=false and defender.train=false: nothing to train; set one to true")
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        if player.train and player.samples < 2:
            raise ConfigError(f"{name}.samples={player.samples}: a pair needs 2; set it, or {name}.train=false")
        _check_loss(name, player.loss)
        for option, usual in (("sample_from", "ema"), ("reference_decay", None)):
            value = getattr(player, option)
            if value != usual and player.reference == "rollout":
                raise ConfigError(
                    f"{name}.{option}={value}: the rollout's log-probs are not the reference's; "
                    f"set {name}.reference=recompute"
                )
        betas = player.optimizer.betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"{name}.optimizer.betas={betas}: expected two numbers in [0, 1)")
    if config.attacker.reward_from == "best" and config.defender.judge == "none":
        raise ConfigError(
            "attacker.reward_from=best needs the defender's rewards, but defender.judge=none; "
            "set attacker.reward_from=first"
        )
    if config.eval.every and not config.eval.seeds:
        raise ConfigError(
            f"eval.every={config.eval.every}: there is nothing to measure on; name held-out seeds, for example "
            "eval.seeds=[harmful-held-out.jsonl,benign-held-out.jsonl], or set it to 0"
        )
    judge = config.judge
    for kind, option, value in (("model", "model", judge.model), ("server", "server.model", judge.server.model)):
        if judge.kind == kind and value is None:
            raise ConfigError(f"judge.kind={kind} needs judge.{option}={'FOLDER' if kind == 'model' else 'NAME'}")
        if judge.kind != kind and value is not None:
            raise ConfigError(
                f"judge.{option}={value} has no effect with judge.kind={judge.kind}; set judge.kind={kind}"
            )
    if judge.kind != "arena":
        for name in ("offset", "noise"):
            if value := getattr(judge, name):
                raise ConfigError(f"judge.{name}={value}: for judge.kind=arena only; set it to 0")


def _check_loss(name: str, loss: LossConfig) -> None:
    default = LossConfig()
    for option, losses in {
        "label_smoothing": ("dpo",),
        "length_normalize": ("dpo", "ipo"),
        "nll_weight": ("dpo", "ipo"),
        "normalization": ("grpo",),
        "importance_cap": ("grpo",),
    }.items():
        value, usual = getattr(loss, option), getattr(default, option)
        if loss.name not in losses and value != usual:
            usual = "null" if usual is None else usual
            raise ConfigError(
                f"{name}.loss.{option}={value}: for {' and '.join(losses)} only, not {loss.name}; set it to {usual}"
            )
    if loss.beta == 0 and loss.name != "grpo":
        raise ConfigError(f"{name}.loss.beta=0: must be positive with {loss.name}")
    if loss.importance_cap == 0:
        raise ConfigError(f"{name}.loss.importance_cap=0: must be positive, or null")


def _read_yaml(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # a YAML parser raises its own family of errors
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not OmegaConf.is_dict(loaded):
        raise ConfigError(f"{path}: not a mapping of settings; its lines must read `name: value`")
    return loaded


def _read_override(override: str) -> Any:
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # as above
        raise ConfigError(f"{override!r}: the value is not valid YAML: {_one_line(error)}") from error


def _merge(config: Any, update: Any, origin: str) -> Any:
    try:
        return OmegaConf.merge(config, update)
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or ""
        message = ": ".join(filter(None, (origin, name, _first_line(error))))
        if close := _closest(name, update):
            message = f"{message.split('. Did you mean')[0]}; did you mean {close}?"
        raise ConfigError(message) from error
    except TypeError as error:  # a list in the place of a section, or the other way round
        given = _one_line(OmegaConf.to_yaml(update))[:80]
        raise ConfigError(f"{origin}: {given!r} is not of the form of the settings; see --print-config") from error


def _closest(name: str, update: Any) -> str | None:
    """What was probably meant by a name that is unknown, or by a value that is none of the choices."""
    known = {known: f for known, f, _ in fields(Config())}
    if name in known:
        choices = [choice for choice in _choices(known[name]) if isinstance(choice, str)]
        value = OmegaConf.select(update, name) if OmegaConf.is_dict(update) else None
        close = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
        return f"{name}={close[0]}" if close else None
    leaf = name.rsplit(".", 1)[-1]
    same_leaf = [path for path in known if path.rsplit(".", 1)[-1] == leaf]
    paths = same_leaf or [*known, *(f.name for f in dataclasses.fields(Config))]
    by_path = difflib.get_close_matches(name, paths, n=1, cutoff=0.0 if same_leaf else 0.75)
    if by_path:
        return by_path[0]
    leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(known)}
    by_leaf = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)
    return leaves[by_leaf[0]] if by_leaf else None


def _choices(f: dataclasses.Field) -> tuple:
    return get_args(f.type) if get_origin(f.type) is Literal else ()


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))
