"""Attacks a model, and reports how it withstands: results.json, report.md and report.html."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args, get_type_hints

from rich.console import Console
from rich.text import Text

from advgame.trainer.base.checksums import MANIFEST, damage
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.files import make_folder, write_text
from advgame.trainer.base.paths import to_path
from advgame.trainer.commands.gate import add_gate, check_gate, exit_code
from advgame.trainer.records import Seed
from advgame.trainer.run.folder import CONFIG
from advgame.trainer.settings.check import check_address
from advgame.trainer.settings.load import load_config, to_dict
from advgame.trainer.settings.schema import JudgeConfig, RedTeamConfig, ServerConfig

if TYPE_CHECKING:  # these import transformers: slow, and not needed for --help
    from advgame.trainer.measure.redteam import RedTeaming
    from advgame.trainer.rollouts.base import Sampler

HELP = "an attacker against any model, or any server that speaks OpenAI's chat protocol"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings in place of the config's; target.timeout=… and so on are the target's, as judge.server's",
    )
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
        help="as for training; default: that of the attacker's run",
    )
    parser.add_argument("--judge", metavar="KIND|MODEL", help="judge.kind, or the judge's model; default: the config's")
    parser.add_argument("--samples", type=int, default=1, metavar="N", help="attacks per seed; default: 1")
    parser.add_argument("--by", metavar="FIELD", help="split the figures by a field of the seeds, for example language")
    parser.add_argument(
        "--out", type=to_path, default=Path("runs/redteam"), metavar="DIR", help="default: runs/redteam"
    )
    add_gate(parser)


def run(options: argparse.Namespace) -> int:
    from advgame.trainer.models.load import check_model, quiet
    from advgame.trainer.prompts.templates import Prompts
    from advgame.trainer.report.pages import write_pages
    from advgame.trainer.report.tables import print_redteaming
    from advgame.trainer.rollouts.server import TARGET, check_server, filler
    from advgame.trainer.seeds import read_seeds

    overrides = [*_judge_settings(options.judge), *options.overrides]
    config = cast(RedTeamConfig, load_config(_config_files(options), overrides, RedTeamConfig))
    seeds = read_seeds(options.seeds, "--seeds")
    check(options, config, seeds)
    if _is_server(options.target):
        config.target = dataclasses.replace(config.target, url=options.target, model=options.target_model)
        prompts, longest = Prompts(config.templates), filler(config.attacker.sampling.max_new_tokens)
        longest = prompts.defender(config.defender.format, config.defender.instruction, longest)
        check_server(config.target, config.defender.sampling, longest, TARGET)
    else:
        check_model(options.target, "--target")
    check_model(options.attacker, "--attacker")
    quiet()
    results = attack(options, config, seeds)
    write_text(options.out / "results.json", json.dumps(dataclasses.asdict(results), indent=1))
    write_pages(results, options.out)
    console = Console()
    print_redteaming(results, console)
    console.print(Text(f"files    {options.out}/{{report.html,report.md,results.json}}"), soft_wrap=True)
    return exit_code(options, {"the target": results.rates["attack_success"]})


def check(options: argparse.Namespace, config: RedTeamConfig, seeds: list[Seed]) -> None:
    """Raises ConfigError if the options contradict each other."""
    if options.samples < 1:
        raise ConfigError(f"--samples {options.samples}: must be at least 1")
    if options.samples > 1 and (config.eval.greedy or config.attacker.sampling.temperature == 0):
        raise ConfigError(
            f"--samples {options.samples}: without chance all attacks on a seed are the same; "
            f"set eval.greedy=false and attacker.sampling.temperature=0.6"
        )
    if "://" in options.target:
        check_address("--target", options.target)
    if _is_server(options.target) and options.target_model is None:
        raise ConfigError(f"--target {options.target}: a server needs --target-model NAME")
    if options.target_model is not None and not _is_server(options.target):
        raise ConfigError(f"--target-model {options.target_model}: for servers, and --target {options.target} is none")
    check_gate(options, seeds, f"--seeds {' '.join(options.seeds)}")
    known = sorted({"category", *(field for seed in seeds for field in seed.fields)})
    if options.by and options.by not in known:
        raise ConfigError(f"--by {options.by}: no seed has this field; they have {', '.join(known)}")


def attack(options: argparse.Namespace, config: RedTeamConfig, seeds: list[Seed]) -> "RedTeaming":
    """Plays, one player's model in memory at a time, and sums up."""
    from advgame.trainer.measure.attempts import attempts_of, outcomes, worst_first
    from advgame.trainer.measure.evaluation import measuring
    from advgame.trainer.measure.metrics import duplicates
    from advgame.trainer.measure.redteam import RedTeaming, answer_attacks, measure, split, write_attacks
    from advgame.trainer.run.preflight import make_rules

    rules, draws = measuring(make_rules(config), config.eval.greedy), (config.seed, "redteam")
    rules = dataclasses.replace(rules, attacker=dataclasses.replace(rules.attacker, samples=options.samples))
    make_folder(options.out, f"--out {options.out}")
    progress = Console(stderr=True)
    with progress.status("the attacker writes"):
        games, diversity = write_attacks(options.attacker, seeds, rules, draws)
    with progress.status("the target answers"):
        games = answer_attacks(games, _target(options, config.target), rules, draws)

    judging = config.judge
    attempts = attempts_of(games, judging.success_score)
    whole = measure(games, judging.success_score, draws)
    parts = split(games, options.by) if options.by else {}
    return RedTeaming(
        attacker=options.attacker,
        target=f"{options.target_model} at {options.target}" if _is_server(options.target) else options.target,
        judge=judging.model or judging.server.model or judging.kind,
        success_score=judging.success_score,
        seed_files=options.seeds,
        seeds=len(seeds),
        attacks_per_seed=options.samples,
        rates=whole.rates,
        detection=whole.detection,
        by_field=options.by,
        by={value: measure(part, judging.success_score, draws) for value, part in parts.items()},
        outcomes=outcomes(attempts),
        diversity=diversity,
        duplicates=duplicates(games),
        attempts=worst_first(attempts),
        config=to_dict(dataclasses.replace(config, attacker=rules.attacker, defender=rules.defender)),
    )


def _target(options: argparse.Namespace, server: ServerConfig) -> "Sampler":
    from advgame.trainer.models.load import load_policy
    from advgame.trainer.rollouts.local import LocalSampler
    from advgame.trainer.rollouts.server import TARGET, ServerSampler

    if _is_server(options.target):
        return ServerSampler(server, TARGET)
    return LocalSampler(load_policy(options.target), "defender").freeze()


def _config_files(options: argparse.Namespace) -> list[str]:
    """Those given, or that of the checkpoint which the attacker is in."""
    if options.config:
        return options.config
    checkpoint = to_path(options.attacker).resolve().parent
    if any((checkpoint / name).exists() for name in (MANIFEST, CONFIG)):
        if problem := damage(checkpoint, CONFIG):
            raise ConfigError(f"--attacker {options.attacker}: {problem}")
        return [str(checkpoint / CONFIG)]
    raise ConfigError(
        f"--attacker {options.attacker}: not in a run's checkpoints, so there is no {CONFIG} to take the templates, "
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


def _is_server(target: str) -> bool:
    return target.startswith(("http://", "https://"))
