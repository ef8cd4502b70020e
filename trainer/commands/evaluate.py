"""advgame evaluate: a run's players on held-out seeds, at its start and at a checkpoint."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from advgame.trainer.checkpoint import folder, locate
from advgame.trainer.config import Config, ConfigError, load_config
from advgame.trainer.console import number
from advgame.trainer.intervals import wilson
from advgame.trainer.outputs import make_folder, write
from advgame.trainer.seeds import read_seeds

HELP = "measure a run's players on held-out seeds, at its start and at a checkpoint"

RATES = {
    "attack_success": "attack success",
    "benign_compliance": "benign compliance",
    "over_refusal": "over-refusal",
}
ASKED = {
    "current": "current attacker",
    "initial": "initial attacker",
    "written": "held-out attacks",
    "plain": "plain seeds",
}
NUMBERS = {
    "diversity": {
        "distinct_1": "distinct-1",
        "distinct_2": "distinct-2",
        "self_bleu": "self-BLEU",
        "embedding_spread": "embedding spread",
    },
    "signs": {
        "attack_tokens": "tokens of an attack",
        "response_tokens": "tokens of a response",
        "position_bias": "judge's bias to the first place",
        "score_saturation": "share of scores that are 0 or 10",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings other than the run's")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint after so many steps; default: the newest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument(
        "--max-attack-success",
        type=float,
        metavar="X",
        help="exit code 1 where the current attacker or the held-out attacks succeed more often than X, 0 to 1, or "
        "where nothing could be judged",
    )


def run(options: argparse.Namespace) -> int:
    place, step = locate(options.run, options.step)
    config = load_config(str(place / "config.yaml"), options.overrides)
    harmful = [seed for seed in read_seeds(config.eval.seeds, "eval.seeds") if seed.category == "harmful"]
    limit = options.max_attack_success
    if limit is not None and not 0 <= limit <= 1:
        raise ConfigError(f"--max-attack-success {limit:g}: must be between 0 and 1")
    if limit is not None and not harmful:
        raise ConfigError(f"--max-attack-success {limit:g}: eval.seeds={config.eval.seeds} has no harmful seeds")
    if options.json:
        make_folder(options.json.parent, f"--json {options.json}")
        if options.json.is_dir():
            raise ConfigError(f"--json {options.json}: is a folder; name a file")
    record = {"step": step} | _evaluate(config, folder(place, step))
    if options.json:
        write(options.json, json.dumps(record, indent=2) + "\n")
    _show(record, Console())
    if limit is not None and record["plain"]["deflection_score"] is None:
        print("error: no answer to a harmful seed could be judged: attack success is not known", file=sys.stderr)
        return 1
    reached = [record[name]["attack_success"] for name in ("current", "written")]
    return int(limit is not None and any(rate is not None and rate > limit for rate in reached))


def _evaluate(config: Config, saved: Path) -> dict:
    """The checkpoint's evaluation, as in evaluation.jsonl, and under `start` that of the players the run began with."""
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.evaluation import evaluate, initial_attacks
    from advgame.trainer.models import load_policy, quiet
    from advgame.trainer.players import load_players, sampler
    from advgame.trainer.prompts import Prompts
    from advgame.trainer.train import make_judge

    quiet()
    prompts = Prompts(config.templates)
    judge = make_judge(config, prompts)
    players = load_policy(config.attacker.model), load_policy(config.defender.model)
    initial = initial_attacks(players[0], judge, prompts, config)
    start = evaluate(*players, initial, judge, prompts, config)
    loaded = load_players(config, saved)
    players = sampler(loaded["attacker"], config.attacker), sampler(loaded["defender"], config.defender)
    return evaluate(*players, initial, judge, prompts, config, start) | {"start": start}


def _show(record: dict, console: Console) -> None:
    now, start = record, record["start"]
    table = Table("", "start", f"step {record['step']}", title="held-out seeds, with 95% confidence intervals")
    for rate, title in RATES.items():
        table.add_row(Text(title, "bold"))
        for asked, name in ASKED.items():
            table.add_row(f"  {name}", *(_with_interval(side[asked], rate) for side in (start, now)))
    for part, names in NUMBERS.items():
        table.add_section()
        for key, name in names.items():
            table.add_row(name, *(number(side[part][key]) for side in (start, now)))
    console.print(table)
    for alarm in record["alarms"]:
        console.print(Text(f"alarm: {alarm}", "yellow"), soft_wrap=True)


def _with_interval(rates: dict, name: str) -> str:
    if rates[name] is None:
        return "–"
    count = rates["counts"][name]
    low, high = wilson(round(rates[name] * count), count)
    return f"{rates[name]:4.0%} ({100 * low:.0f}–{100 * high:.0f}%)"
