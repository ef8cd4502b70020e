"""The players of a run: their policies at its start or at a checkpoint, and the samplers that play for them."""

from collections.abc import Sequence
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.game.play import Match
from advgame.trainer.learn.sharded import ShardedPolicy
from advgame.trainer.learn.step import Learner, make_learner
from advgame.trainer.models.adapters import add_adapters, read_adapter
from advgame.trainer.models.load import load_policy, load_with_averages
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.records import Game
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run import checkpoint
from advgame.trainer.run.evaluate import Evaluations
from advgame.trainer.run.fresh import check_fresh, first_samples, rollout_mismatch
from advgame.trainer.run.preflight import Plan, check_budgets, check_output, check_space, make_rules
from advgame.trainer.settings.schema import Config, PlayerConfig, shares_out


def set_up(plan: Plan, config: Config, clock: Clock) -> tuple[list[Learner], Match, list[Game]]:
    """Attacker and defender as learners, the match that they play, and the games that are left of a resumed batch."""
    with clock(Stage.LOAD):
        rules = make_rules(config)
        check_output(plan)
        attacker, defender = make_learners(config, plan.saved)
        games = checkpoint.load(plan.saved, [attacker, defender]) if plan.saved else []
    with collectives.together():  # here, every process has also read what the first is about to write anew
        check_budgets(attacker, defender, plan.seeds, rules)
        check_space(plan.run, [attacker, defender])
    collectives.from_first(lambda: checkpoint.begin(plan.run, plan.resumed, config))
    match = Match(
        playing(attacker.policies, config.attacker, "attacker"),
        playing(defender.policies, config.defender, "defender"),
        rules,
    )
    return [attacker, defender], match, games


def make_evaluations(plan: Plan, match: Match, learners: list[Learner], seed: int) -> Evaluations | None:
    """What the run's evaluations have in common; None if it has none. seed: the run's."""
    if plan.held_out is None:
        return None
    embedder = who_plays(learners[1].policies, learners[1].config)
    return Evaluations(plan.run, plan.held_out, match, embedder, (seed, "evaluation"))


def refresh(match: Match, learners: list[Learner], step: int, clock: Clock) -> None:
    """Gives the samplers the weights that play after `step` steps. Raises ConfigError if that cannot be seen."""
    with clock(Stage.REFRESH):
        for sampler, learner in zip((match.attacker, match.defender), learners, strict=True):
            sampler.load(who_plays(learner.policies, learner.config).weights(), version=step)
            if isinstance(sampler, LocalSampler):
                check_fresh(sampler, who_plays(learner.policies, learner.config), learner.name)


def mismatches(learners: list[Learner], games: list[Game], clock: Clock) -> dict[str, dict[str, float] | None]:
    """Of each player, how far its samples' log-probs are from those of the weights that still play, on one prompt."""
    found = {}
    with clock(Stage.REFRESH):
        for learner in learners:
            samples = first_samples(learner.name, games)
            weights = who_plays(learner.policies, learner.config)
            found[learner.name] = rollout_mismatch(weights, samples) if samples else None
    return found


def make_learners(config: Config, saved: Path | None) -> list[Learner]:
    """Attacker and defender, with the weights of the checkpoint `saved` or as at the start of a run."""
    if not shares_out(config):
        loaded = load_policies(config, saved)
        return [make_learner(name, loaded[name], getattr(config, name)) for name in loaded]
    learners = []
    for name in ("attacker", "defender"):  # one after the other: what is loaded is whole
        policies = load_policies(config, saved, [name], averages=not getattr(config, name).train)[name]
        learner = make_learner(name, policies, getattr(config, name), zero=config.zero)
        if saved:
            restore(learner, saved)
        learners.append(learner)
    return learners


def restore(learner: Learner, saved: Path) -> None:
    """Gives sharded policies their weights of a checkpoint, in float32."""
    for suffix, policy in learner.policies.by_suffix.items():
        if isinstance(policy, ShardedPolicy):
            folder = saved / f"{learner.name}{suffix}"
            adapter = policy.adapter and read_adapter(folder, policy.adapter)
            policy.engine.take(policy.shards(), adapter.items() if adapter else load_policy(folder).weights())
            policy.engine.refresh()


def load_policies(
    config: Config, saved: Path | None, players: Sequence[str] = ("attacker", "defender"), averages: bool = True
) -> dict[str, PlayerPolicies]:
    """The policies of players, in the checkpoint `saved` or at the start of a run.

    averages: if False, they share the policy's weights until an engine has shards of their own.
    """
    loaded: dict[str, PlayerPolicies] = {}
    bases: dict[str, Policy] = {}
    for name in players:
        player = getattr(config, name)
        names = [name, f"{name}_ema"] + ([f"{name}_reference"] if player.reference_decay is not None else [])
        own = names if averages else names[:1]
        if player.lora.rank:
            if player.model not in bases:
                bases[player.model] = load_policy(player.model)
            policies = add_adapters(bases[player.model], own, player.lora, config.seed, saved)
        else:
            policies = load_with_averages(own, player.model, saved)
        policies += policies[:1] * (len(names) - len(own))
        loaded[name] = PlayerPolicies(*(policy.multiplying_in(player.precision) for policy in policies))
    return loaded


def playing(policies: PlayerPolicies, config: PlayerConfig, name: str) -> LocalSampler:
    """A sampler of the weights that play. name: attacker or defender."""
    return LocalSampler(who_plays(policies, config), name, config.sampling.precision)


def who_plays(policies: PlayerPolicies, config: PlayerConfig) -> Policy:
    """The moving average, or the policy itself."""
    return policies.by_suffix[_suffix_of_playing(config)]


def playing_models(saved: Path, config: Config) -> tuple[Path, Path]:
    """The attacker and the defender that play, in a checkpoint or in the mean of several."""
    attacker, defender = (_suffix_of_playing(player) for player in (config.attacker, config.defender))
    return saved / f"attacker{attacker}", saved / f"defender{defender}"


def _suffix_of_playing(config: PlayerConfig) -> str:
    """What a checkpoint adds to the player's name for the weights that play."""
    return "_ema" if config.sample_from == "ema" else ""
