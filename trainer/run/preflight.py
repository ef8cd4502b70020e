"""Checks before a run: whatever can be refused is refused here."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from advgame.kernels import activate_flash_attention
from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import free_space, make_folder
from advgame.trainer.base.paths import to_path
from advgame.trainer.engines.zero import import_deepspeed
from advgame.trainer.game.play import Rules
from advgame.trainer.judges.arena import check_seeds
from advgame.trainer.judges.kinds import make_judge
from advgame.trainer.learn.step import Learner
from advgame.trainer.measure.evaluation import HeldOut, read_held_out
from advgame.trainer.models.families import check_layers
from advgame.trainer.models.load import check_model, read_architecture
from advgame.trainer.models.precision import bfloat16_pays
from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Seed
from advgame.trainer.rollouts.local import WITHOUT_SERVER, check_context
from advgame.trainer.run import checkpoint
from advgame.trainer.run.folder import SAMPLES
from advgame.trainer.run.room import check_room
from advgame.trainer.seeds import dealt_share, read_seeds
from advgame.trainer.settings.schema import Config, JudgeConfig, Precision, shares_out


@dataclass(frozen=True)
class Plan:
    """What a run starts from."""

    run: Path
    """The run's folder."""
    resumed: int
    """Number of steps that are done."""
    seeds: list[Seed]
    held_out: HeldOut | None
    """What the players are measured on; None without evaluations."""
    device: str
    """The models' device, and on CUDA its attention."""
    predicted: float
    """Bytes that a process takes at its peak, by prediction."""

    @property
    def saved(self) -> Path | None:
        """The checkpoint that the run continues from."""
        return checkpoint.folder(self.run, self.resumed) if self.resumed else None


def preflight(config: Config) -> Plan:
    """Checks all that can be checked before a model is loaded. Raises ConfigError that names the setting."""
    run = to_path(config.output_dir)
    resumed = collectives.from_first(lambda: checkpoint.resume(run, config))
    seeds = read_seeds(config.seeds.files)
    held_out = read_held_out(config.eval) if config.eval.every else None
    if config.judge.kind == "arena":
        check_seeds(seeds)
    check_lessons(seeds, config)
    Prompts(config.templates)
    check_precision(precisions(config))
    check_engine(config)
    check_models(config, resumed)
    with collectives.together():  # their GPUs may differ
        predicted = check_room(config, checkpoint.folder(run, resumed) if resumed else None)
    return Plan(run, resumed, seeds, held_out, choose_device(config.attention), predicted)


def check_lessons(seeds: list[Seed], config: Config) -> None:
    """Raises ConfigError if no seed is left that the attacker may learn from."""
    attacker = config.attacker
    if attacker.train and not attacker.learn_from_benign and dealt_share(seeds, config.seeds.benign_share) == 1:
        raise ConfigError(
            "attacker.learn_from_benign=false, but no harmful seeds are dealt: name a file of them in seeds.files and "
            "set seeds.benign_share below 1, or let the attacker rest (attacker.train=false)"
        )


def check_models(config: Config, resumed: int) -> None:
    """Raises ConfigError if a model that will be loaded is not there, or a player's cannot be trained in packs."""
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        if not resumed or player.lora.rank:  # else the checkpoint has it
            check_model(player.model, f"{name}.model")
            check_layers(read_architecture(player.model), player.model)
    check_judge(config.judge)


def check_judge(judge: JudgeConfig) -> None:
    """Raises ConfigError if the judge's model is not there, or cannot be sampled here."""
    if judge.kind == "model":
        check_model(str(judge.model), "judge.model")
        check_layers(read_architecture(str(judge.model)), f"{judge.model}", what=WITHOUT_SERVER)


def choose_device(attention: str) -> str:
    """Activates the attention of the setting, and names the device and it. Raises ConfigError if it cannot run."""
    try:
        chosen, device = activate_flash_attention(attention), collectives.device()
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return f"{device}, attention {chosen}" if device.type == "cuda" else str(device)


def make_rules(config: Config) -> Rules:
    """The rules of the settings, with a judge that is ready."""
    prompts = Prompts(config.templates)
    material = config.attacker.sampling.max_new_tokens + 2 * config.defender.sampling.max_new_tokens
    judge = make_judge(config.judge, prompts, config.seed, material)
    return Rules(prompts, judge, config.attacker, config.defender, config.judge)


def check_precision(precisions: Mapping[str, Precision]) -> None:
    """Raises ConfigError for a precision, by its setting's name, that this machine does not compute in. Warns of one
    that it is slow at."""
    cuda = collectives.device().type == "cuda"
    for name, precision in precisions.items():
        if precision == "float32" and cuda:
            raise ConfigError(f"{name}=float32: on CUDA, attention takes bfloat16 only; set auto")
        if precision == "bfloat16" and not cuda and not bfloat16_pays():
            warnings.warn(f"{name}=bfloat16: this processor is slow at it; set auto or float32", stacklevel=2)


def check_engine(config: Config) -> None:
    """Raises ConfigError for an engine that is not installed, or a setting of it that this machine has no use for."""
    if not shares_out(config):
        return
    if config.zero.offload != "none" and collectives.device().type == "cpu":
        raise ConfigError(f"zero.offload={config.zero.offload}: everything is in the host's memory here; set none")
    import_deepspeed()


def precisions(config: Config) -> dict[str, Precision]:
    """Of both players, by the settings' names."""
    players = {"attacker": config.attacker, "defender": config.defender}
    training = {f"{name}.precision": player.precision for name, player in players.items()}
    return training | {f"{name}.sampling.precision": player.sampling.precision for name, player in players.items()}


def check_output(plan: Plan) -> None:
    """Makes the run's folders. Raises ConfigError if one cannot be written to."""
    for folder in (plan.run, plan.run / "checkpoints", plan.run / SAMPLES):
        make_folder(folder, f"output_dir={folder}")


def check_space(run: Path, learners: list[Learner]) -> None:
    """Raises ConfigError if the run's disk has no room for a checkpoint."""
    needed, free = (bytes / 2**20 for bytes in (checkpoint.size(learners), free_space(run)))
    if needed > free:
        raise ConfigError(
            f"output_dir={run}: a checkpoint takes {needed:.1f} MiB, and {free:.1f} MiB are free there; "
            f"free some space, or name another place"
        )


def check_budgets(attacker: Learner, defender: Learner, seeds: list[Seed], rules: Rules) -> None:
    """Raises ConfigError if the longest possible games would not fit into packs or into the models' contexts."""
    texts = [rules.prompts.attacker(seed.category, rules.attacker.format, seed.query) for seed in seeds]
    longest = max(texts, key=lambda text: len(text.encode()))  # in every language, more bytes are more tokens
    attacker_prompt = len(chat_ids(attacker.policies.policy.tokenizer, longest))

    def shown(text: str) -> int:
        """Number of tokens of the defender's prompt."""
        prompt = rules.prompts.defender(rules.defender.format, rules.defender.instruction, text)
        return len(chat_ids(defender.policies.policy.tokenizer, prompt))

    defender_prompt = shown("") + rules.attacker.sampling.max_new_tokens
    if rules.defender.replay_seeds:
        defender_prompt = max(defender_prompt, *(shown(seed.query) for seed in seeds))
    for learner, prompt in ((attacker, attacker_prompt), (defender, defender_prompt)):
        name, player = learner.name, learner.config
        samples = player.samples if player.loss.name == "grpo" else 2
        limit, budget = player.sampling.max_new_tokens, player.optimizer.tokens_per_pack
        if player.train and prompt + samples * limit > budget:
            raise ConfigError(
                f"{name}.optimizer.tokens_per_pack={budget}: a prompt of {prompt} tokens and {samples} samples of "
                f"{name}.sampling.max_new_tokens={limit} do not fit; "
                f"set tokens_per_pack to {prompt + samples * limit} or more"
            )
        check_context(learner.policies.policy, prompt, limit, name)
