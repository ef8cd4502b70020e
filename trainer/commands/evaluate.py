"""Measures a run's players on held-out seeds: at its start, and at a checkpoint or in the mean of several."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import make_folder, write_text
from advgame.trainer.base.paths import to_path
from advgame.trainer.commands.gate import add_gate, check_gate, exit_code
from advgame.trainer.run.folder import CONFIG
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

if TYPE_CHECKING:  # it imports transformers: slow, and not needed for --help
    from advgame.trainer.measure.evaluation import HeldOut

HELP = "measure a run's players on held-out seeds, at its start and at a checkpoint or in the mean of several"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        metavar="RUN_OR_PLAYERS",
        type=to_path,
        help="a run's folder, one of its checkpoints, or what `advgame average` wrote",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the run's")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint after N steps; default: the newest")
    parser.add_argument("--json", type=to_path, metavar="FILE", help="also write the results there")
    add_gate(parser)


def run(options: argparse.Namespace) -> int:
    from advgame.trainer.measure.evaluation import read_held_out
    from advgame.trainer.measure.rates import Rate
    from advgame.trainer.report.labels import SHOWN
    from advgame.trainer.report.tables import print_evaluation

    saved, steps = find_players(options.run, options.step)
    config = load_config(str(saved / CONFIG), options.overrides)
    held_out = read_held_out(config.eval)
    check_gate(options, held_out.seeds, f"eval.seeds={config.eval.seeds} with eval.limit={config.eval.limit}")
    if options.json:
        make_folder(options.json.parent, f"--json {options.json}")
        if options.json.is_dir():
            raise ConfigError(f"--json {options.json}: is a folder; name a file")
    record = steps | measure(config, held_out, saved)
    if options.json:
        write_text(options.json, json.dumps(record, indent=2) + "\n")
    print_evaluation(record, Console())
    return exit_code(options, {SHOWN[name]: Rate(**record[name]["attack_success"]) for name in ("current", "written")})


def find_players(path: Path, step: int | None) -> tuple[Path, dict]:
    """The folder of saved players, and what their record says of their steps. Raises ConfigError if there is none."""
    from advgame.trainer.run.average import read_average
    from advgame.trainer.run.checkpoint import folder, locate

    if mean_of := read_average(path):
        if step is not None:
            raise ConfigError(f"--step {step}: {path} is the mean of several; name its run, or leave the step out")
        return path, {"step": mean_of[-1], "mean_of": mean_of}
    run, step = locate(path, step)
    return folder(run, step), {"step": step}


def measure(config: Config, held_out: "HeldOut", saved: Path) -> dict:
    """The saved players' evaluation, as in evaluation.jsonl, and under `start` that of those the run began with."""
    from advgame.trainer.game.play import Match
    from advgame.trainer.measure.evaluation import attack_held_out, evaluate
    from advgame.trainer.models.load import load_policy, quiet
    from advgame.trainer.rollouts.local import LocalSampler
    from advgame.trainer.run.players import playing_models
    from advgame.trainer.run.preflight import make_rules

    def samplers(attacker: str | Path, defender: str | Path) -> tuple[LocalSampler, LocalSampler]:
        return (
            LocalSampler(load_policy(attacker), "attacker", config.attacker.sampling.precision),
            LocalSampler(load_policy(defender), "defender", config.defender.sampling.precision),
        )

    quiet()
    rules, draws = make_rules(config), (config.seed, "evaluation")
    attacker, defender = samplers(config.attacker.model, config.defender.model)
    initial = attack_held_out(attacker, rules, held_out, draws)
    shown = {"current": initial, "initial": initial}
    start = evaluate(Match(attacker, defender, rules), held_out, shown, draws, defender.policy)
    attacker, defender = samplers(*playing_models(saved, config))
    shown = {"current": attack_held_out(attacker, rules, held_out, draws), "initial": initial}
    now = evaluate(Match(attacker, defender, rules), held_out, shown, draws, defender.policy, start)
    return now | {"start": start}
