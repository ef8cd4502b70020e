"""Players: a policy and its moving averages, as whole models or as adapters over one that both players share."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from advgame.trainer.config import Config, ConfigError, PlayerConfig
from advgame.trainer.models import Policy, load_policy
from advgame.trainer.packed import check_family
from advgame.trainer.randomness import key_to_seed


@dataclass(frozen=True)
class Player:
    """An attacker or a defender: what is trained, and the moving average that samples and is the reference."""

    policy: Policy
    ema: Policy
    slow: Policy | None = None
    """A slower moving average, where that is the reference."""

    @property
    def reference(self) -> Policy:
        return self.slow or self.ema

    @property
    def policies(self) -> dict[str, Policy]:
        """All that a checkpoint keeps, by what it adds to the player's name."""
        return {"": self.policy, "_ema": self.ema} | ({"_reference": self.slow} if self.slow else {})


def load_players(config: Config, saved: Path | None) -> dict[str, Player]:
    """Attacker and defender: as in the checkpoint `saved`, or at the start of a run."""
    players, bases = {}, {}
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        names = [name, f"{name}_ema"] + ([f"{name}_reference"] if player.reference_decay is not None else [])
        if player.lora.rank:
            if player.model not in bases:
                bases[player.model] = load_trainable(player.model)
            policies = _adapters(bases[player.model], names, player, config.seed, saved)
        else:
            policies = _models(names, player.model, saved)
        players[name] = Player(*policies)
    return players


def sampler(player: Player, config: PlayerConfig) -> Policy:
    """Who plays."""
    return player.ema if config.sample_from == "ema" else player.policy


def load_trainable(source: str | Path) -> Policy:
    """A policy whose model is known to compute the same in packs."""
    policy = load_policy(source)
    check_family(policy.model, str(source))
    return policy


def _models(names: list[str], source: str, saved: Path | None) -> list[Policy]:
    """Whole models of these names; the first is the policy's, and the others begin as copies of it."""
    policy = load_trainable(saved / names[0] if saved else source)
    averages = [
        load_policy(saved / name) if saved else Policy(copy.deepcopy(policy.model), policy.tokenizer)
        for name in names[1:]
    ]
    for average in averages:
        average.model.requires_grad_(False)
    return [policy, *averages]


def _adapters(base: Policy, names: list[str], config: PlayerConfig, seed: int, saved: Path | None) -> list[Policy]:
    """LoRA adapters of these names over a frozen model; the first is the policy's."""
    try:
        import peft
    except ImportError as error:
        raise ConfigError(f"{names[0]}.lora.rank={config.lora.rank} needs peft: pip install 'advgame[peft]'") from error
    base.model.requires_grad_(False)
    for name in names:
        # All begin alike: one of an adapter's two matrices is random at first. And peft warns of a second adapter.
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch.manual_seed(key_to_seed(seed, "lora", names[0]))
            if saved:
                base.model.load_adapter(str(saved / name), adapter_name=name, is_trainable=True)
            else:
                adapter = peft.LoraConfig(
                    r=config.lora.rank,
                    lora_alpha=config.lora.alpha,
                    target_modules="all-linear",
                    base_model_name_or_path=base.model.name_or_path,
                )
                base.model.add_adapter(adapter, adapter_name=name)
    return [Policy(base.model, base.tokenizer, name) for name in names]
