"""Attacks a model, and writes down how it holds: results.json, report.md and report.html."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from omegaconf import OmegaConf
from rich.console import Console
from rich.text import Text

from advgame.trainer.attempts import Rate, attempts_of, outcomes, split, summary, unknown, worst_first
from advgame.trainer.config import Config, ConfigError, JudgeConfig, ServerConfig, load_config
from advgame.trainer.game import Seed
from advgame.trainer.outputs import make_folder, write
from advgame.trainer.tools.report import print_summary, write_report

HELP = "an attacker against any model, or any server that speaks OpenAI's chat protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings in place of the config's")
    parser.add_argument(
        "--attacker", required=True, metavar="MODEL", help="RUN/checkpoints/step-N/attacker_ema, or any model"
    )
    parser.add_argument(
        "--target", required=True, metavar="MODEL|URL", help="a model, or a server's address: http://HOST:PORT/v1"
    )
    parser.add_argument("--target-model", metavar="NAME", help="the name that the server knows the target by")
    parser.add_argument("--seeds", required=True, nargs="+", metavar="FILE", help="JSONL files, as in seeds.files")
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        help="as for training, also several; default: the config.yaml of the run that the attacker is of",
    )
    parser.add_argument("--judge", metavar="KIND|MODEL", help="judge.kind, or the judge's model; default: the config's")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="attacks per seed; default: 1")
    parser.add_argument("--by", metavar="FIELD", help="split the rates by a field of the seeds, for example language")
    parser.add_argument("--out", type=Path, default=Path("runs/redteam"), metavar="DIR", help="default: runs/redteam")
    parser.add_argument(
        "--max-attack-success",
        type=float,
        metavar="X",
        help="exit with 1 if a larger share of the attacks succeeds, or if nothing could be judged",
    )


def run(options: argparse.Namespace) -> int:
    # These import transformers: slow, and not needed for --help.
    from advgame.trainer.evaluation import measuring
    from advgame.trainer.models import check_model, quiet
    from advgame.trainer.prompts import Prompts
    from advgame.trainer.redteam import answer_attacks, write_attacks
    from advgame.trainer.seeds import read_seeds
    from advgame.trainer.server import TARGET, check_server
    from advgame.trainer.train import make_judge

    config = measuring(load_config(_config_files(options), [*_judge_settings(options.judge), *options.overrides]))
    config.attacker.samples = options.samples
    seeds = read_seeds(options.seeds)
    check(options, config, seeds)
    target = options.target
    if _is_server(target):
        target = ServerConfig(url=target, model=options.target_model)
        check_server(target, TARGET)
    else:
        check_model(target, "--target")
    check_model(options.attacker, "--attacker")

    quiet()
    prompts = Prompts(config.templates)
    judge = make_judge(config, prompts)
    make_folder(options.out, f"--out {options.out}")
    progress = Console(stderr=True)
    with progress.status("the attacker writes"):
        games, diversity = write_attacks(options.attacker, seeds, judge, prompts, config)
    with progress.status("the target answers"):
        games = answer_attacks(games, target, judge, prompts, config)

    attempts = attempts_of(games, config.judge.success_score)
    rates = summary(attempts, config.judge)
    parts = split(attempts, options.by) if options.by else {}
    report = {
        "attacker": options.attacker,
        "target": f"{options.target_model} at {target.url}" if _is_server(options.target) else target,
        "judge": config.judge.model or config.judge.server.model or config.judge.kind,
        "success_score": config.judge.success_score,
        "seed_files": options.seeds,
        "seeds": len(seeds),
        "attacks_per_seed": options.samples,
        "rates": _as_dicts(rates),
        "by_field": options.by,
        "by": {value: _as_dicts(summary(part, config.judge)) for value, part in parts.items()},
        "outcomes": outcomes(attempts),
        "diversity": diversity,
        "attempts": [dataclasses.asdict(attempt) for attempt in worst_first(attempts)],
        "config": OmegaConf.to_container(OmegaConf.structured(config)),
    }
    write(options.out / "results.json", json.dumps(report, indent=1))
    write_report(report, options.out)
    print_summary(report)
    Console().print(Text(f"files    {options.out}/{{report.html,report.md,results.json}}"), soft_wrap=True)
    if options.max_attack_success is None:
        return 0
    if unknown(attempts):
        print("error: no answer to a harmful seed could be judged: attack success is not known", file=sys.stderr)
        return 1
    return int(rates["attack_success"].share > options.max_attack_success)


def check(options: argparse.Namespace, config: Config, seeds: list[Seed]) -> None:
    """Raises ConfigError for what contradicts itself."""
    if options.samples < 1:
        raise ConfigError(f"--samples {options.samples}: must be at least 1")
    if options.samples > 1 and config.attacker.sampling.temperature == 0:
        raise ConfigError(
            f"--samples {options.samples}: without chance all attacks on a seed are the same; "
            f"set eval.greedy=false and attacker.sampling.temperature=0.6"
        )
    if _is_server(options.target) and options.target_model is None:
        raise ConfigError(f"--target {options.target}: a server needs --target-model NAME")
    if options.target_model is not None and not _is_server(options.target):
        raise ConfigError(f"--target-model {options.target_model}: for servers, and --target {options.target} is none")
    if options.max_attack_success is not None:
        if not 0 <= options.max_attack_success <= 1:
            raise ConfigError(f"--max-attack-success {options.max_attack_success}: must be a share, between 0 and 1")
        if all(seed.category == "benign" for seed in seeds):
            raise ConfigError("--max-attack-success: there are no harmful seeds; give a file that has some")
    known = sorted({"category", *(field for seed in seeds for field in seed.fields)})
    if options.by and options.by not in known:
        raise ConfigError(f"--by {options.by}: no seed has this field; they have {', '.join(known)}")


def _config_files(options: argparse.Namespace) -> list[str]:
    """Those given, or RUN/config.yaml for an attacker in RUN/checkpoints/step-N."""
    if options.config:
        return options.config
    checkpoints = Path(options.attacker).resolve().parent.parent
    stored = checkpoints.with_name("config.yaml")
    if checkpoints.name == "checkpoints" and stored.is_file():
        return [str(stored)]
    raise ConfigError(
        f"--attacker {options.attacker}: not in a run's checkpoints, so there is no config.yaml to take the templates, "
        f"formats and sampling from; give one: --config FILE, or a shipped one by name"
    )


def _judge_settings(judge: str | None) -> list[str]:
    if judge is None:
        return []
    known = judge in get_args(get_type_hints(JudgeConfig)["kind"])
    kind = judge if known else "model"
    settings = [f"judge.kind={kind}"] if known else ["judge.kind=model", f"judge.model={judge}"]
    others = {"model": "judge.model=null", "server": "judge.server.model=null"}
    return settings + [unset for other, unset in others.items() if other != kind]


def _as_dicts(rates: dict[str, Rate]) -> dict[str, dict]:
    return {name: dataclasses.asdict(rate) for name, rate in rates.items()}


def _is_server(target: str) -> bool:
    return target.startswith(("http://", "https://"))
