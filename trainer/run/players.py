"""The players of a run: their policies at its start or at a checkpoint, and the samplers that play for them."""

from dataclasses import replace
from pathlib import Path

from advgame.trainer.base import collectives
from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.game.play import Match
from advgame.trainer.learn.step import Learner, make_learner
from advgame.trainer.models.adapters import add_adapters
from advgame.trainer.models.load import load_policy, load_with_averages
from advgame.trainer.models.policy import PlayerPolicies, Policy, products
from advgame.trainer.records import Game
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run import checkpoint
from advgame.trainer.run.evaluate import Evaluations
from advgame.trainer.run.fresh import check_fresh, first_samples, rollout_mismatch
from advgame.trainer.run.preflight import Plan, check_budgets, check_output, check_space, make_rules
from advgame.trainer.settings.schema import Config, PlayerConfig


def set_up(plan: Plan, config: Config, clock: Clock) -> tuple[list[Learner], Match, list[Game]]:
    """Attacker and defender as learners, the match that they play, and the games that are left of a resumed batch."""
    with clock(Stage.LOAD):
        rules = make_rules(config)
        check_output(plan)
        policies = load_policies(config, plan.saved)
        attacker = make_learner("attacker", policies["attacker"], config.attacker)
        defender = make_learner("defender", policies["defender"], config.defender)
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
            average = learner.policies.ema.named_parameters().items()
            sampler.load(average if learner.config.sample_from == "ema" else learner.engine.weights(), version=step)
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


def load_policies(config: Config, saved: Path | None) -> dict[str, PlayerPolicies]:
    """The policies of attacker and defender, in the checkpoint `saved` or at the start of a run."""
    loaded: dict[str, PlayerPolicies] = {}
    bases: dict[str, Policy] = {}
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        names = [name, f"{name}_ema"] + ([f"{name}_reference"] if player.reference_decay is not None else [])
        if player.lora.rank:
            if player.model not in bases:
                bases[player.model] = load_policy(player.model)
            policies = add_adapters(bases[player.model], names, player.lora, config.seed, saved)
        else:
            policies = load_with_averages(names, player.model, saved)
        loaded[name] = PlayerPolicies(*(replace(policy, products=products(player.precision)) for policy in policies))
    return loaded


def playing(policies: PlayerPolicies, config: PlayerConfig, name: str) -> LocalSampler:
    """A sampler of the weights that play. name: attacker or defender."""
    return LocalSampler(who_plays(policies, config), name, config.sampling.precision)


def who_plays(policies: PlayerPolicies, config: PlayerConfig) -> Policy:
    """The moving average, or the policy itself."""
    return policies.by_suffix[suffix_of_playing(config)]


def suffix_of_playing(config: PlayerConfig) -> str:
    """What a checkpoint adds to the player's name for the weights that play."""
    return "_ema" if config.sample_from == "ema" else ""
