"""Checks of settings: ranges, and contradictions between them."""

import json
import math
import re

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.settings.schema import (
    Config,
    JudgeConfig,
    LossConfig,
    OptimizerConfig,
    RedTeamConfig,
    ServerConfig,
    Settings,
    WarmstartConfig,
    fields,
)

SCALES = ("loss.beta", "loss.nll_weight", "loss.importance_cap", "sampling.temperature")
"""Factors in the kernels' float32 arithmetic: 0, or of a size whose products neither overflow nor vanish."""


def check(config: Config) -> None:
    """Raises ConfigError for a setting that is out of range or contradicts another."""
    check_values(config)
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
        _check_optimizer(f"{name}.optimizer", player.optimizer)
        if player.train and player.optimizer.lr == 0:
            raise ConfigError(f"{name}.optimizer.lr=0: nothing would be learnt; raise it, or set {name}.train=false")
        if player.optimizer.decay_steps > config.steps:
            raise ConfigError(
                f"{name}.optimizer.decay_steps={player.optimizer.decay_steps}: the run has steps={config.steps}; set "
                f"it to that or less"
            )
        if player.optimizer.max_loss_ratio is not None and player.loss.name == "grpo":
            raise ConfigError(
                f"{name}.optimizer.max_loss_ratio={player.optimizer.max_loss_ratio}: grpo's losses lie around 0, and "
                f"their ratio means nothing; set it to null"
            )
        if player.first_tokens is not None and player.loss.name == "grpo":
            raise ConfigError(
                f"{name}.first_tokens={player.first_tokens}: for dpo and ipo only, not grpo; set it to null"
            )
    if config.attacker.reward_from == "best" and config.defender.judge == "none":
        raise ConfigError(
            "attacker.reward_from=best needs the defender's rewards, but defender.judge=none; "
            "set attacker.reward_from=first"
        )
    attacker = config.attacker
    if not (attacker.learn_from_malformed or config.judge.faithfulness) and attacker.judge == "none" and attacker.train:
        raise ConfigError(
            "attacker.learn_from_malformed=false, attacker.judge=none and judge.faithfulness=false: all attacks that "
            "are left get the same reward; set one of them back"
        )
    if config.eval.every and not config.eval.seeds:
        raise ConfigError(
            f"eval.every={config.eval.every}: there is nothing to measure on; name held-out seeds, for example "
            "eval.seeds=[harmful-held-out.jsonl,benign-held-out.jsonl], or set it to 0"
        )
    _check_engine(config)
    check_judge(config.judge)
    if isinstance(config, RedTeamConfig):
        check_server("target", config.target)


def check_warmstart(config: WarmstartConfig) -> None:
    """Raises ConfigError for a setting that is out of range or contradicts another."""
    check_values(config)
    check_judge(config.judge)
    _check_optimizer("optimizer", config.optimizer)
    if config.examples % config.batch_size:
        more = config.batch_size - config.examples % config.batch_size
        raise ConfigError(
            f"examples={config.examples}: not whole steps of batch_size={config.batch_size} examples; set it to "
            f"{config.examples + more}"
        )
    if config.optimizer.lr == 0:
        raise ConfigError("optimizer.lr=0: nothing would be learnt; raise it")
    for option, unset in (("max_loss_ratio", None), ("decay_steps", 0)):
        value = getattr(config.optimizer, option)
        if value != unset:
            raise ConfigError(f"optimizer.{option}={value}: for the game only; leave it out")
    if config.judge.kind == "arena":
        raise ConfigError("judge.kind=arena: cannot read these files' language; set another judge.kind")
    if config.held_out.wrappings and not config.held_out.seeds:
        raise ConfigError(
            f"held_out.wrappings={config.held_out.wrappings}: there is nothing to wrap; name held_out.seeds as well"
        )


def check_values(config: Settings) -> None:
    """Raises ConfigError for a setting that is out of range, whatever the others are."""
    for name, f, value in fields(config):
        low, high = f.metadata["low"], f.metadata["high"]
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name}={value}: must be a finite number")
        if value is None or (low is None and high is None):
            continue
        if not ((low is None or value >= low) and (high is None or value <= high)):
            bounds = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise ConfigError(f"{name}={value}: must be {bounds}")
        if name.endswith(SCALES) and value and not 1e-15 <= value <= 1e15:
            raise ConfigError(f"{name}={value}: must be between 1e-15 and 1e15, or its squares leave float32's range")
    if not _can_be_folder(config.output_dir):
        raise ConfigError(
            f"output_dir={config.output_dir!r:.60}: no folder can have this name; at most 255 bytes between two "
            "slashes, 3,500 in all, and no null byte"
        )


def check_judge(judge: JudgeConfig) -> None:
    """Raises ConfigError for a setting of the judge that is wrong, or has no effect."""
    check_server("judge.server", judge.server)
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


def check_server(name: str, server: ServerConfig) -> None:
    """Raises ConfigError if a secret is where it would be stored, or `extra` holds what no request can."""
    check_address(f"{name}.url", server.url)
    if not server.api_key_env.isidentifier():
        raise ConfigError(f"{name}.api_key_env: takes the name of an environment variable, never the key itself")
    for field in ("model", "messages", "stream"):
        if field in server.extra:
            raise ConfigError(f"{name}.extra.{field}: is not for you to set; remove it")
    try:
        json.dumps(server.extra, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}.extra: cannot be sent as JSON ({error})") from error


def check_address(name: str, url: str) -> None:
    """Raises ConfigError, which does not repeat it, if an address has parts that may be secret: it is written down."""
    if re.search("[@?#]", url):
        raise ConfigError(
            f"{name}: an address with a user, a password or a query, which would be stored with the results; remove "
            f"it, and put the key into the environment variable that api_key_env names"
        )


def _check_engine(config: Config) -> None:
    offload, stage = config.zero.offload, config.zero.stage
    if config.engine == "single" and offload != "none":
        raise ConfigError(f"zero.offload={offload} has no effect with engine=single; set engine=zero")
    needed = {"none": 0, "optimizer": 1, "idle_player": 3}[offload]
    if stage < needed:
        raise ConfigError(
            f"zero.offload={offload}: cannot be done with zero.stage={stage}; set it to {needed}, or more"
        )


def _check_optimizer(name: str, optimizer: OptimizerConfig) -> None:
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise ConfigError(f"{name}.betas={optimizer.betas}: expected two numbers in [0, 1)")
    if optimizer.lr * optimizer.weight_decay > 1:
        raise ConfigError(
            f"{name}.lr={optimizer.lr} with weight_decay={optimizer.weight_decay}: a step takes "
            f"lr x weight_decay of each weight away, here more than all of it; lower one of the two"
        )


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


def _can_be_folder(name: str) -> bool:
    """3,500 leaves room for the run's own files."""
    encoded = name.encode(errors="surrogateescape")
    return len(encoded) <= 3500 and b"\0" not in encoded and all(len(part) <= 255 for part in encoded.split(b"/"))


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - wanted))
