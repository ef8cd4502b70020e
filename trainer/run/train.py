"""The loop: play a batch of games, take its optimiser steps, save what happened."""

import time
from collections.abc import Sequence

from rich.text import Text

from advgame.trainer.base import collectives, stopping
from advgame.trainer.base.clock import SAMPLING, Clock, Stage
from advgame.trainer.base.errors import ConfigError, Outage, Stopped, WriteError
from advgame.trainer.base.files import read_records
from advgame.trainer.base.memory import give_back_freed
from advgame.trainer.base.paths import to_path
from advgame.trainer.game.group import attacker_groups, defender_groups
from advgame.trainer.game.material import attacks, for_attacker
from advgame.trainer.game.pair import attacker_pairs, defender_pairs
from advgame.trainer.game.play import play
from advgame.trainer.learn.step import Learner, learn
from advgame.trainer.measure.idle import why_idle
from advgame.trainer.measure.lately import Lately, idle_alarms, lately, loss_limit, skip_alarms
from advgame.trainer.measure.metrics import game_metrics, sampled_tokens
from advgame.trainer.measure.resources import peak_memory
from advgame.trainer.models.load import quiet
from advgame.trainer.records import Game, Item
from advgame.trainer.report.console import Progress
from advgame.trainer.run.evaluate import evaluate_now
from advgame.trainer.run.folder import EVALUATIONS, METRICS
from advgame.trainer.run.lock import alone_in
from advgame.trainer.run.players import make_evaluations, mismatches, refresh, set_up
from advgame.trainer.run.preflight import Plan, preflight
from advgame.trainer.run.room import compare
from advgame.trainer.run.saver import Saver
from advgame.trainer.run.summary import finished, sum_up, way_on
from advgame.trainer.seeds import deal
from advgame.trainer.settings.schema import AlarmsConfig, Config

PAIRS = {"attacker": attacker_pairs, "defender": defender_pairs}
GROUPS = {"attacker": attacker_groups, "defender": defender_groups}


def train(config: Config) -> None:
    """Plays and trains to config.steps, from the newest checkpoint in config.output_dir if there is one.

    Raises ConfigError, before any work if it can be known then; FloatingPointError if too many numbers are not finite;
    and when all finished steps are saved, Outage if a server has not answered for too long, and Stopped after a signal.
    """
    quiet()
    with alone_in(to_path(config.output_dir)):
        carry_on(preflight(config), config)


def carry_on(plan: Plan, config: Config) -> None:
    """Takes the steps that are left, and sums up."""
    clock, first = Clock(), collectives.rank() == 0
    with Progress(str(plan.run), plan.resumed, config.steps, first, clock) as progress:
        if plan.resumed < config.steps or is_unmeasured(plan, config):
            progress.console.print(Text(f"device {plan.device}"))
            try:
                loop(plan, config, clock, progress)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {way_on(plan.run, config)}.") from error
        else:
            progress.console.print(Text(finished(plan.run, config.steps)), soft_wrap=True)
        if first and (plan.run / METRICS).exists():
            progress.console.print(Text(sum_up(plan.run, config)), soft_wrap=True)


def loop(plan: Plan, config: Config, clock: Clock, progress: Progress) -> None:
    """The steps that are left. Wherever a signal or an outage ends them, those that are finished are saved first."""
    before = peak_memory()
    learners, match, games = set_up(plan, config, clock)
    evaluations = make_evaluations(plan, match, learners, config.seed)
    saver = Saver(plan.run, plan.resumed, games, learners, config, clock)
    done = read_records(plan.run / METRICS)
    latest = {learner.name: lately(learner.name, done) for learner in learners}

    try:
        if evaluations and is_unmeasured(plan, config):
            refresh(match, learners, plan.resumed, clock)
            progress.evaluation_done(plan.resumed, evaluate_now(evaluations, plan.resumed, clock))
        for step in range(plan.resumed, config.steps):
            with collectives.together():
                stopping.check()
            give_back_freed()
            began = time.perf_counter()
            batch, index = divmod(step, config.steps_per_batch)
            if index == 0:
                refresh(match, learners, step, clock)
                seeds = deal(plan.seeds, batch, config.batch_size, config.seed, config.seeds.benign_share)
                games = play(match, seeds, (config.seed, batch), clock)
            share = part(games, index, config.steps_per_batch)
            material = {"attacker": for_attacker(share, config.attacker), "defender": share}
            lessons = {learner.name: items(learner, material[learner.name]) for learner in learners}
            record: dict = {"step": step + 1, "batch": batch, "game": game_metrics(share, config.judge.success_score)}
            if index == 0:
                record["mismatch"] = mismatches(learners, games, clock)
            record |= study(learners, lessons, latest, step, config, clock)
            record["attacker"]["left_out"] = attacks(share) - attacks(material["attacker"])
            latest, idle = watch(record, lessons, material, latest, config.alarms)
            record["timing"] = timing(time.perf_counter() - began, clock, games if index == 0 else [])
            if step == plan.resumed:
                record["timing"] |= compare(plan.predicted, before)
            saver.finish(record, share, games if index + 1 < config.steps_per_batch else [], lessons)
            progress.step_done(record, share)
            if evaluations and is_due(step, config.eval.every, config):
                refresh(match, learners, step + 1, clock)
                progress.evaluation_done(step + 1, evaluate_now(evaluations, step + 1, clock))
            saver.write()
            check_skipped(latest, config.alarms)
            if idle and config.alarms.stop_when_idle:
                saver.save()
                raise ConfigError(f"stopped by alarms.stop_when_idle=true after step {step + 1}: {'; '.join(idle)}")
            if is_due(step, config.checkpoint.every, config):
                saver.save()
    except (Outage, Stopped):
        saver.save()
        raise
    except WriteError as error:
        raise WriteError(f"{error}; the same command then continues from step {saver.saved}") from error
    match.attacker.close()
    match.defender.close()


def is_unmeasured(plan: Plan, config: Config) -> bool:
    """Whether the players are to be measured before the next step: at the start, or where an outage prevented it."""
    if plan.held_out is None:
        return False
    if not plan.resumed:
        return True
    measured = [record["step"] for record in read_records(plan.run / EVALUATIONS)]
    return is_due(plan.resumed - 1, config.eval.every, config) and plan.resumed not in measured


def part(games: list[Game], index: int, steps_per_batch: int) -> list[Game]:
    """The games of a batch that its step number `index` trains on."""
    size = len(games) // steps_per_batch
    return games[index * size : (index + 1) * size]


def study(
    learners: list[Learner],
    lessons: dict[str, Sequence[Item]],
    latest: dict[str, Lately],
    step: int,
    config: Config,
    clock: Clock,
) -> dict:
    """Each player whose turn it is learns its lesson. Returns the players' parts of the step's record."""
    learnt = {}
    for learner, stage in zip(learners, (Stage.ATTACKER_LEARNS, Stage.DEFENDER_LEARNS), strict=True):
        name, limit = learner.name, loss_limit(latest[learner.name], learner.config.optimizer.max_loss_ratio)
        with clock(stage):
            learnt[name] = learn(learner, lessons[name], step, name in turn(config, step), limit, config.steps)
    return learnt


def watch(
    record: dict,
    lessons: dict[str, Sequence[Item]],
    material: dict[str, list[Game]],
    latest: dict[str, Lately],
    config: AlarmsConfig,
) -> tuple[dict[str, Lately], list[str]]:
    """Adds to a step's record what was wrong with it. Returns what the players' latest steps were like, and how long
    each has been idle if that is an alarm."""
    for name, lesson in lessons.items():
        if "lr" in record[name] and (why := why_idle(name, lesson, material[name])):
            record[name]["idle"] = why
    latest = {name: player.and_step(record) for name, player in latest.items()}
    idle = idle_alarms(record, latest.values(), config.idle_steps)
    if alarms := [*skip_alarms(record, latest.values()), *idle]:
        record["alarms"] = alarms
    return latest, idle


def check_skipped(latest: dict[str, Lately], config: AlarmsConfig) -> None:
    """Raises FloatingPointError if too many steps of a player in a row were skipped."""
    for name, player in latest.items():
        if player.skipped >= config.skipped_steps:
            raise FloatingPointError(f"the {name}'s last {player.skipped} steps had to be skipped")


def items(learner: Learner, games: list[Game]) -> Sequence[Item]:
    """What a player learns from: groups for GRPO, pairs for the other losses."""
    if learner.config.loss.name == "grpo":
        return GROUPS[learner.name](games)
    return PAIRS[learner.name](games, learner.config.min_gap, learner.config.first_tokens)


def turn(config: Config, step: int) -> tuple[str, ...]:
    """The players that learn at a step."""
    if config.schedule == "joint":
        return ("attacker", "defender")
    return ("attacker",) if step // config.steps_per_turn % 2 == 0 else ("defender",)


def is_due(step: int, every: int, config: Config) -> bool:
    """Whether something that happens every `every` steps, and after the last one, happens after this step."""
    return (step + 1) % every == 0 or step + 1 == config.steps


def timing(seconds: float, clock: Clock, played: list[Game]) -> dict:
    """What depends on the clock or the machine. played: the games that the step sampled, on all processes."""
    sampling, sampled = clock.seconds(*SAMPLING), sampled_tokens(played)
    return {
        "seconds": seconds,
        "sampled_tokens": sampled,
        "sampled_tokens_per_second": sampled / sampling if played else None,
        "peak_memory_gib": peak_memory() / 2**30,
        "processes": collectives.world_size(),
    }
