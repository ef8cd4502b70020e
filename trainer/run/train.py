"""The loop: play a batch of games, take its optimiser steps, keep what happened."""

import dataclasses
import json
import resource
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from advgame.trainer import checkpoint, distributed, metrics
from advgame.trainer.advantages import attacker_groups, defender_groups
from advgame.trainer.arena.judge import check_seeds, judge_arena, noisy
from advgame.trainer.config import AttackerConfig, Config, ConfigError, DefenderConfig
from advgame.trainer.console import Progress
from advgame.trainer.evaluation import evaluate, held_out_attacks, held_out_seeds, initial_attacks
from advgame.trainer.game import Game, Seed, game_from_dict
from advgame.trainer.judges import Judge
from advgame.trainer.judges.model import make_model_judge
from advgame.trainer.judges.rules import judge_by_rules
from advgame.trainer.learner import Learner, learn, make_learner
from advgame.trainer.models import Policy, check_model, quiet
from advgame.trainer.objectives import Item
from advgame.trainer.outputs import make_folder, write
from advgame.trainer.pairs import attacker_pairs, defender_pairs
from advgame.trainer.play import play
from advgame.trainer.players import Player, load_players, sampler
from advgame.trainer.plots import EVALUATION, METRICS, draw
from advgame.trainer.prompts import Prompts, chat_ids
from advgame.trainer.resources import EnergyMeter, report, table
from advgame.trainer.sampler import check_context
from advgame.trainer.seeds import deal, read_seeds
from advgame.trainer.transcripts import write_transcript


def train(config: Config) -> None:
    """Plays and trains to config.steps, from the newest checkpoint in config.output_dir if there is one."""
    quiet()
    run = Path(config.output_dir)
    resumed = (checkpoint.finished(run) or [0])[-1]
    if resumed:
        checkpoint.check_same_run(run, config)
    seeds = read_seeds(config.seeds.files)
    if config.eval.every:  # what is wrong with these files is said now
        held_out_seeds(config), held_out_attacks(config)
        if resumed:
            check_evaluations(run)
    if config.judge.kind == "arena":
        check_seeds(seeds)
    prompts = Prompts(config.templates)
    check_models(config, resumed)

    first = distributed.rank() == 0
    with Progress(str(run), resumed, config.steps, visible=first) as progress:
        if resumed >= config.steps:
            hint = f"To go on: steps={2 * config.steps}; to start anew: output_dir=…, or delete the folder."
            progress.console.print(Text(f"{run} has all its {config.steps} steps. {hint}"), soft_wrap=True)
            if first and (run / "metrics.jsonl").exists():  # it may have been stopped before it did this
                sum_up(run, config, progress.console)
            return
        meter = EnergyMeter()
        with progress.stage("loading models"):
            judge = make_judge(config, prompts)
            make_folder(run, f"output_dir={run}")
            attacker, defender, games = load_learners(config, run, resumed)
        check_budgets(config, attacker.player, defender.player, seeds, prompts)
        distributed.barrier()  # every process has read what the first is about to write anew
        if first:
            checkpoint.write_config(run, config)
            metrics.truncate(run / "metrics.jsonl", resumed)
            metrics.truncate(run / "evaluation.jsonl", resumed or -1)  # a run that begins evaluates its beginning
        if config.eval.every and not resumed:
            keep_evaluation(run, 0, attacker, defender, judge, prompts, config, progress)

        for step in range(resumed, config.steps):
            began = time.perf_counter()
            batch, part = divmod(step, config.steps_per_batch)
            if part == 0:
                dealt = deal(seeds, batch, config.batch_size, config.seed)
                players = playing(attacker), playing(defender)
                games = play(dealt, batch, *players, judge, prompts, config, progress.stage)
            size = len(games) // config.steps_per_batch
            share = games[part * size : (part + 1) * size]
            attacker_learns, defender_learns = turn(config, step)
            with progress.stage("attacker learns"):
                attacker_metrics = learn(attacker, attacker_items(share, config.attacker), step, attacker_learns)
            with progress.stage("defender learns"):
                defender_metrics = learn(defender, defender_items(share, config.defender), step, defender_learns)
            record = {
                "step": step + 1,
                "batch": batch,
                "game": metrics.game_metrics(share, config.judge.success_score),
                "attacker": attacker_metrics,
                "defender": defender_metrics,
                "timing": step_timing(time.perf_counter() - began, progress, games if part == 0 else []),
            }
            progress.step_done(record, share)
            if config.eval.every and ((step + 1) % config.eval.every == 0 or step + 1 == config.steps):
                keep_evaluation(run, step + 1, attacker, defender, judge, prompts, config, progress)
            record["timing"] |= progress.take_stages() | {"joules": meter.take()}
            if first:  # before the checkpoint: a run that goes on from it needs the lines up to it
                metrics.append(run / "metrics.jsonl", record)
                write_transcript(run / "samples" / f"step-{step + 1:06d}.txt", share)
            if (step + 1) % config.checkpoint.every == 0 or step + 1 == config.steps:
                unused = games if part + 1 < config.steps_per_batch else []
                with progress.stage("saving"):
                    checkpoint.save(run, step + 1, [attacker, defender], unused, config.checkpoint.keep)

    if first:
        sum_up(run, config, progress.console)


def sum_up(run: Path, config: Config, console: Console) -> None:
    """Draws the curves and reports what the run took, and says where everything is."""
    drawn = draw(METRICS, metrics.read(run / "metrics.jsonl"), run / "curves.png")
    evaluations = metrics.read(run / "evaluation.jsonl")
    if evaluations:
        draw(EVALUATION, evaluations, run / "evaluation.png")
    models = f"{checkpoint.folder(run, checkpoint.finished(run)[-1])}/{{attacker,defender}}{{,_ema}}"
    measured = "{metrics,evaluation}" if evaluations else "metrics"
    curves = "{curves,evaluation}" if evaluations else "curves"
    lines = {
        "models": models,
        "metrics": f"{run}/{measured}.jsonl",
        "samples": f"{run}/samples",
        "curves": f"{run}/{curves}.png" if drawn else "not drawn: pip install 'advgame[report]'",
        "resources": f"{run}/resources.json",
    }
    taken = table(report(run, config.report.grid_intensity))
    text = "\n".join(f"{name:<11}{value}" for name, value in lines.items())
    console.print(Text(f"{text}\n\n{taken}"), soft_wrap=True)


def turn(config: Config, step: int) -> tuple[bool, bool]:
    """Whether the attacker learns at a step, and whether the defender does."""
    if config.schedule == "joint":
        return True, True
    attackers = step // config.steps_per_turn % 2 == 0
    return attackers, not attackers


def playing(learner: Learner) -> Policy:
    return sampler(learner.player, learner.config)


def keep_evaluation(
    run: Path,
    step: int,
    attacker: Learner,
    defender: Learner,
    judge: Judge,
    prompts: Prompts,
    config: Config,
    progress: Progress,
) -> None:
    """Evaluates the players as they are after `step` steps; the first time it keeps the attacker's attacks."""
    first, kept, file = distributed.rank() == 0, run / "initial-attacks.json", run / "evaluation.jsonl"
    with progress.stage("evaluating"):
        if step == 0:
            games = initial_attacks(playing(attacker), judge, prompts, config)
            if first:
                write(kept, json.dumps([dataclasses.asdict(game) for game in games]))
            distributed.barrier()
        initial = [game_from_dict(game) for game in json.loads(kept.read_text(encoding="utf-8"))]
        start = metrics.read(file)[0] if step else None
        record = evaluate(playing(attacker), playing(defender), initial, judge, prompts, config, start)
    if first:
        metrics.append(file, {"step": step} | record)
    progress.evaluation_done(step, record)


def attacker_items(games: list[Game], config: AttackerConfig) -> list[Item]:
    return attacker_groups(games) if config.loss.name == "grpo" else attacker_pairs(games, config.min_gap)


def defender_items(games: list[Game], config: DefenderConfig) -> list[Item]:
    return defender_groups(games) if config.loss.name == "grpo" else defender_pairs(games, config.min_gap)


def check_evaluations(run: Path) -> None:
    """Whether what later evaluations are compared with is still there. Raises ConfigError."""
    for name in ("initial-attacks.json", "evaluation.jsonl"):
        if not (run / name).exists():
            raise ConfigError(
                f"{run}/{name} is missing, which later evaluations are compared with; put it back to go on, or choose "
                f"another output_dir to start anew"
            )


def check_models(config: Config, resumed: int) -> None:
    """Whether the models that are about to be loaded are there. Raises ConfigError that names the setting."""
    for name, player in (("attacker", config.attacker), ("defender", config.defender)):
        if not resumed or player.lora.rank:  # else the checkpoint has it
            check_model(player.model, f"{name}.model")
    if config.judge.kind == "model":
        check_model(config.judge.model, "judge.model")


def check_budgets(config: Config, attacker: Player, defender: Player, seeds: list[Seed], prompts: Prompts) -> None:
    """Whether the longest games that can be played fit into packs and into the models. Raises ConfigError."""
    texts = [prompts.attacker(seed.category, config.attacker.format, seed.prompt) for seed in seeds]
    longest = max(texts, key=lambda text: len(text.encode()))  # bytes follow tokens in every language
    empty = prompts.defender(config.defender.format, config.defender.instruction, "")
    of_attacker = len(chat_ids(attacker.policy.tokenizer, longest))
    of_defender = len(chat_ids(defender.policy.tokenizer, empty)) + config.attacker.sampling.max_new_tokens
    for name, learner, prompt in (("attacker", attacker, of_attacker), ("defender", defender, of_defender)):
        player = getattr(config, name)
        samples = player.samples if player.loss.name == "grpo" else 2
        limit, budget = player.sampling.max_new_tokens, player.optimizer.tokens_per_pack
        if player.train and prompt + samples * limit > budget:
            raise ConfigError(
                f"{name}.optimizer.tokens_per_pack={budget}: a prompt of {prompt} tokens and {samples} samples of "
                f"{name}.sampling.max_new_tokens={limit} do not fit; "
                f"set tokens_per_pack to {prompt + samples * limit} or more"
            )
        check_context(learner.policy, prompt, limit, name)


def make_judge(config: Config, prompts: Prompts) -> Judge:
    if config.judge.kind == "arena":
        return noisy(judge_arena, config.judge.offset, config.judge.noise, config.seed)
    if config.judge.kind == "rules":
        return judge_by_rules
    material = config.attacker.sampling.max_new_tokens + 2 * config.defender.sampling.max_new_tokens
    return make_model_judge(config.judge, prompts, config.seed, material)


def load_learners(config: Config, run: Path, step: int) -> tuple[Learner, Learner, list[Game]]:
    """Attacker and defender as they were after `step` steps, and the games that are not used up."""
    saved = checkpoint.folder(run, step) if step else None
    players = load_players(config, saved)
    learners = [make_learner(name, player, getattr(config, name)) for name, player in players.items()]
    if saved:
        for learner in learners:
            checkpoint.load_optimizer(saved, learner)
    return *learners, checkpoint.load_games(saved) if saved else []


def step_timing(seconds: float, progress: Progress, played: list[Game]) -> dict:
    """What depends on the clock or the machine; sampled tokens are those of all processes."""
    stages = progress.stages
    sampling = stages.get("attacker writes", 0.0) + stages.get("defender answers", 0.0)
    sampled = metrics.sampled_tokens(played)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "seconds": seconds,
        "sampled_tokens": sampled,
        "sampled_tokens_per_second": sampled / sampling if played else None,
        "peak_memory_gib": (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / 2**30,
        "processes": distributed.world_size(),
    }
