"""Whole game steps: ours; as before, with transformers' generate and PyTorch's layers in float32; and two TRL trainers.

    python bench/game.py                              SmolLM2-135M, and a small model with a vocabulary of 152,064
    python bench/game.py --case short --repeat 9

Eight seeds, two attacks on each, two answers to each attack: the samplers take the weights, the attacker writes, the
defender answers, and both learn. Nobody judges. No sample ends before its limit, so that everyone samples and trains on
the same tokens. The user's alternative is a GRPO step of the attacker and then one of the defender, by TRL where it is
installed. Times are medians, and all take turns.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch
import transformers
from rich.console import Console
from rich.table import Table
from support.generate import GenerateSampler
from support.machine import machine
from support.measure import synchronize
from support.players import make_player, make_policies
from support.rollouts import Endless, large_vocabulary_policy, number_prompts, qwen_policy, smollm2_policy
from support.trl import trl_step

from advgame.kernels import attention, layers
from advgame.trainer.base.clock import Clock, Stage
from advgame.trainer.learn.step import Learner, learn
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.records import Pair
from advgame.trainer.rollouts.base import Request, Sampler
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.fresh import check_fresh
from advgame.trainer.seeds import deal, read_seeds
from advgame.trainer.settings.schema import SamplingConfig

SEEDS = 8
TOKENS_PER_PACK = 2048
PRECISIONS = ["bfloat16"] if torch.cuda.is_available() else ["float32", "bfloat16"]

Stages = dict[str, float]
"""Seconds of each."""
Texts = tuple[list[str], list[str]]
"""What the attacker continues, and the defender."""


@dataclass(frozen=True)
class Case:
    name: str
    policy: Callable[[], Policy]
    texts: Callable[[], Texts]
    lengths: tuple[int, int]
    """Tokens of an attack and of an answer."""


def short_texts() -> Texts:
    return seed_texts("small", "prompt_only", "Answer in one short sentence.")


def long_texts() -> Texts:
    return seed_texts(None, "think_prompt", "")


def seed_texts(templates: str | None, format: str, instruction: str) -> Texts:
    """In the place of the attacks the defender is shown other seeds."""
    files = ["harmful.jsonl", "benign.jsonl"]
    wording = Prompts(templates)
    return (
        [wording.attacker(seed.category, format, seed.query) for seed in deal(read_seeds(files), 0, SEEDS, seed=0)],
        [wording.defender("any", instruction, seed.query) for seed in deal(read_seeds(files), 1, 2 * SEEDS, seed=0)],
    )


CASES = {
    "short": Case("SmolLM2-135M, short prompts, 48 tokens", smollm2_policy, short_texts, (48, 48)),
    "long": Case("SmolLM2-135M, long prompts, 90 and 120 tokens", smollm2_policy, long_texts, (90, 120)),
    "large-vocabulary": Case("30M parameters, V = 152,064, 48 tokens", large_vocabulary_policy, short_texts, (48, 48)),
    "qwen": Case("Qwen2.5's shape", lambda: qwen_policy()[0], lambda: number_prompts(SEEDS, 2 * SEEDS), (250, 250)),
}


@dataclass(frozen=True)
class Side:
    """One of the players, and what it continues, each prompt twice."""

    learner: Learner
    sampler: Sampler
    requests: list[Request]
    sampling: SamplingConfig


def bench(case: Case, repeat: int) -> dict:
    console = Console(stderr=True)
    policy = case.policy()
    texts = case.texts()
    contenders = make_contenders(case, policy, texts)
    if find_spec("trl"):
        contenders |= {f"two TRL trainers {p}": lambda p=p: trl(case, policy, texts, p) for p in PRECISIONS}
    else:
        console.print("trl is not installed, and left out")
    rounds: dict[str, list[Stages]] = {name: [] for name in contenders}
    for number in range(repeat + 1):
        for name, step in contenders.items():
            if number == 0 and "TRL" in name:  # whose trainers are made anew each time: there is nothing to warm up
                continue
            stages = step()
            console.print(f"  {case.name}, round {number}, {name}: {sum(stages.values()):.1f} s", style="dim")
            if number:
                rounds[name].append(stages)
    return {
        "case": case.name,
        "sampled_tokens": 2 * sum(len(part) * limit for part, limit in zip(texts, case.lengths, strict=True)),
        "results": [
            {
                "name": name,
                "seconds": statistics.median(sum(stages.values()) for stages in measured),
                "stages": {stage: statistics.median(stages[stage] for stages in measured) for stage in measured[0]},
            }
            for name, measured in rounds.items()
        ],
    }


def sampling_of(case: Case) -> list[SamplingConfig]:
    return [SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=limit) for limit in case.lengths]


def make_contenders(case: Case, policy: Policy, texts: Texts) -> dict[str, Callable[[], Stages]]:
    """The trainer in each precision, and as it was: all of them with the same weights."""
    policies = {name: make_policies(policy) for name in ("attacker", "defender")}

    def contender(precision: str, make_sampler: Callable[[Policy, str], Sampler]) -> Callable[[], Stages]:
        sides = []
        for (name, own), part, sampling in zip(policies.items(), texts, sampling_of(case), strict=True):
            typed = PlayerPolicies(*(p.multiplying_in(precision) for p in (own.policy, own.ema)))
            requests = [Request(text, (name, i, k)) for i, text in enumerate(part) for k in range(2)]
            player = make_player(name, typed, TOKENS_PER_PACK)
            sides.append(Side(player, make_sampler(Endless(**vars(typed.ema)), name), requests, sampling))
        return lambda: game_step(sides)

    before = contender(PRECISIONS[0], GenerateSampler)
    return {"before": lambda: with_pytorch_layers(before)} | {
        f"ours {precision}": contender(precision, lambda policy, name, p=precision: LocalSampler(policy, name, p))
        for precision in PRECISIONS
    }


def with_pytorch_layers(step: Callable[[], Stages]) -> Stages:
    """Attention, norms and gates by PyTorch's operators, and not by those of csrc/."""
    with patch.object(attention, "BUILT", False), patch.object(layers, "BUILT", False):
        return step()


def game_step(sides: list[Side]) -> Stages:
    """As the trainer takes it."""
    clock = Clock()
    with clock(Stage.REFRESH):
        for side in sides:
            playing = side.learner.policies.ema
            side.sampler.load(playing.named_parameters().items(), version=0)
            if isinstance(side.sampler, LocalSampler):
                check_fresh(side.sampler, playing, side.learner.name)
    pairs: list[list[Pair]] = []
    for side, stage in zip(sides, (Stage.ATTACK, Stage.DEFEND), strict=True):
        with clock(stage):
            rollouts = side.sampler.sample(side.requests, side.sampling)
        pairs.append([Pair(*pair) for pair in zip(rollouts[0::2], rollouts[1::2], strict=True)])
    for side, lesson, stage in zip(sides, pairs, (Stage.ATTACKER_LEARNS, Stage.DEFENDER_LEARNS), strict=True):
        with clock(stage):
            metrics = learn(side.learner, lesson, step=0)
            synchronize()
        assert "skipped" not in metrics, metrics
    return clock.take()["stages"]


def trl(case: Case, policy: Policy, texts: Texts, precision: str) -> Stages:
    """One player after the other."""
    sides = zip(("attacker's trainer", "defender's trainer"), texts, sampling_of(case), strict=True)
    return {name: trl_step(policy, part, sampling, precision) for name, part, sampling in sides}


def print_table(report: dict) -> None:
    table = Table(title=f"{report['case']}: {report['sampled_tokens']:,} sampled tokens", title_justify="left")
    table.add_column("")
    for column in ("step s", "steps/min", "x the first", "stages, s"):
        table.add_column(column, justify="left" if column == "stages, s" else "right")
    for row in report["results"]:
        table.add_row(
            row["name"],
            f"{row['seconds']:.1f}",
            f"{60 / row['seconds']:.2f}",
            f"{report['results'][0]['seconds'] / row['seconds']:.2f}",
            ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in row["stages"].items()),
        )
    Console(width=160).print(table)


def draw(report: dict, file: Path) -> None:
    """A bar for each contender, of its stages."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(10, 2.6 * len(report["cases"])), layout="constrained")
    stages = list(
        dict.fromkeys(stage for case in report["cases"] for row in case["results"] for stage in row["stages"])
    )
    for axes, case in zip(figure.subplots(len(report["cases"]), squeeze=False)[:, 0], report["cases"], strict=True):
        ends = {row["name"]: 0.0 for row in case["results"]}
        for number, stage in enumerate(stages):
            rows = [row for row in case["results"] if stage in row["stages"]]
            for row in rows:
                axes.barh(row["name"], row["stages"][stage], left=ends[row["name"]], color=f"C{number}")
                ends[row["name"]] += row["stages"][stage]
        axes.invert_yaxis()
        axes.set_title(case["case"], loc="left")
        axes.set(xlabel="seconds of a game step")
    figure.legend(
        handles=[Patch(color=f"C{number}", label=stage) for number, stage in enumerate(stages)],
        loc="outside right center",
        frameon=False,
    )
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["qwen"] if torch.cuda.is_available() else ["short", "large-vocabulary"]
    parser.add_argument("--case", choices=CASES, action="append", help=f"{' and '.join(usual)} if left out")
    parser.add_argument("--repeat", type=int, default=5, help="timed steps of each")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/game.json"), help="results; the plot goes beside")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine(), "threads": torch.get_num_threads(), "repeat": options.repeat, "cases": []}
    for name in options.case or usual:
        report["cases"].append(bench(CASES[name], options.repeat))
        print_table(report["cases"][-1])
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, options.json.with_suffix(".png"))
    print(f"{options.json} {options.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
