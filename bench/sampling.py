"""Sampling: ours, transformers' and vLLM's, in float32 and bfloat16, on the same prompts, in one run.

    python bench/sampling.py                                  SmolLM2-135M: 32 attacks, 64 answers, medians of 5
    python bench/sampling.py --attacks 16 --answers 32 --repeat 3 --only generate --only ours

On a GPU the model is a random one of Qwen2.5's shape.

Attacks continue prompts that share an instruction of some 250 tokens; answers continue prompts of their own, two each.
No sample ends before its limit, so that everyone samples the same number of tokens. The floor is the time of the bare
linear layers, by torch, on the tokens that pass through them: what prompts begin with once, then 32 rows at a time.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from support.engines import Sample, continuous_batching, static_cache, vllm
from support.generate import GenerateSampler
from support.machine import machine
from support.measure import alternate, peak_memory
from support.rollouts import Endless, number_prompts, qwen_policy, smollm2_policy
from torch import nn
from torch.nn import functional

from advgame.trainer.prompts.chat import chat_ids
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.rollouts.prefixes import place
from advgame.trainer.seeds import deal, read_seeds
from advgame.trainer.settings.schema import SamplingConfig

ROWS = 32
GROWTH, GROWTH_TOKENS = (8, 32, 128), 30
DTYPES = {"bfloat16": torch.bfloat16}
if not torch.cuda.is_available():
    DTYPES = {"float32": torch.float32} | DTYPES


@dataclass
class Result:
    name: str
    seconds: float
    prefill_seconds: float
    """Until each sample has its first token."""
    tokens_per_second: float
    """Sampled ones."""
    over_floor: float
    """Time over that of the bare linear layers in the same dtype."""
    extra_bytes: int
    """Peak above the weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attacks", type=int, default=32, help="samples, two for each seed")
    parser.add_argument("--answers", type=int, default=64, help="samples, two for each prompt")
    parser.add_argument("--attack-tokens", type=int, default=90)
    parser.add_argument("--answer-tokens", type=int, default=120)
    parser.add_argument("--only", action="append", help="samplers whose names contain this; all if left out")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/sampling.json"), help="the plot goes beside")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if torch.cuda.is_available():
        policy, _ = qwen_policy()
        prompts = number_prompts(options.attacks // 2, options.answers // 2)
    else:
        policy = smollm2_policy()
        prompts = attack_texts(options.attacks // 2), answer_texts(options.answers // 2)
    policies = {label: replace(policy, model=copy.deepcopy(policy.model).to(dtype)) for label, dtype in DTYPES.items()}
    contenders = {
        name: make()
        for name, make in samplers(policy, policies).items()
        if any(part in name for part in options.only or [""])
    }
    limits = options.attack_tokens, options.answer_tokens
    cases = {
        name: (twice(texts, name), limit)
        for name, texts, limit in zip(("attacks", "answers"), prompts, limits, strict=True)
    }
    report = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "repeat": options.repeat,
        "cases": {
            name: bench(name, contenders, policy, requests, limit, options.repeat)
            for name, (requests, limit) in cases.items()
        },
    }
    report["growth"] = {label: growth(policy, label, prompts[0], options.repeat) for label in DTYPES}
    report["changed"] = {label: changed(policy, label, cases["answers"][0], options.answer_tokens) for label in DTYPES}
    print_growth(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, options.json.with_suffix(".png"))
    print(f"{options.json} {options.json.with_suffix('.png')}")


def samplers(policy: Endless, policies: dict[str, Endless]) -> dict[str, Callable[[], Sample]]:
    """Each by its name. policies: copies in each dtype."""
    found: dict[str, Callable[[], Sample]] = {}
    for label, of_dtype in policies.items():
        found |= {
            f"generate {label}": lambda p=of_dtype: GenerateSampler(p, "generate").sample,
            f"static cache {label}": lambda p=of_dtype: static_cache(p),
            f"continuous batching {label}": lambda p=of_dtype: continuous_batching(p),
        }
        if find_spec("vllm"):
            found[f"vllm {label}"] = lambda p=of_dtype, dtype=label: vllm(p, dtype, ROWS)
    return found | {f"ours {label}": lambda p=label: LocalSampler(policy, "ours", p).sample for label in policies}


def attack_texts(count: int) -> list[str]:
    seeds = deal(read_seeds(["harmful.jsonl"]), 0, count, seed=0)
    return [Prompts().attacker(seed.category, "think_prompt", seed.query) for seed in seeds]


def answer_texts(count: int) -> list[str]:
    seeds = deal(read_seeds(["harmful.jsonl", "benign.jsonl"]), 0, count, seed=0)
    return [Prompts().defender("any", "", seed.query) for seed in seeds]


def twice(texts: list[str], kind: str) -> list[Request]:
    return [Request(text, (kind, i, k)) for i, text in enumerate(texts) for k in range(2)]


def bench(
    name: str, contenders: dict[str, Sample], policy: Endless, requests: list[Request], limit: int, repeat: int
) -> dict:
    console = Console(stderr=True)
    sampled = len(requests) * limit
    prompts = [chat_ids(policy.tokenizer, request.text) for request in requests]
    once = sum(len(pack.tokens.ids) for pack in place(prompts, torch.device("cpu")))
    console.print(
        f"{name}: {len(requests)} samples of {limit} tokens, prompts of {statistics.median(map(len, prompts))}"
    )

    def run(sample: Sample, tokens: int) -> Callable[[], object]:
        sampling = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=tokens, batch_size=ROWS)
        return lambda: sample(requests, sampling)

    first = alternate({label: run(sample, 1) for label, sample in contenders.items()}, repeat)
    memory = {label: peak_memory(run(sample, limit)) for label, sample in contenders.items()}
    whole = alternate({label: run(sample, limit) for label, sample in contenders.items()}, repeat, warm_up=False)
    floors = {label: floor(policy, dtype, once, sampled, repeat) for label, dtype in DTYPES.items()}
    results = [
        Result(
            label, whole[label], first[label], sampled / whole[label], whole[label] / floors[label.split()[-1]], extra
        )
        for label, extra in memory.items()
    ]
    print_table(name, results)
    return {
        "samples": len(requests),
        "tokens": limit,
        "prompt_tokens": sum(map(len, prompts)),
        "prompt_tokens_once": once,
        "floor_seconds": floors,
        "results": [asdict(result) for result in results],
    }


def growth(policy: Endless, label: str, texts: list[str], repeat: int) -> list[dict]:
    """Ours, with more and more attacks at a time."""
    found = []
    for count in GROWTH:
        requests = [Request(texts[i % len(texts)], ("growth", i)) for i in range(count)]
        sampling = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=GROWTH_TOKENS, batch_size=count)
        sampler = LocalSampler(policy, "ours", label)
        run = {"": lambda sampler=sampler, requests=requests, sampling=sampling: sampler.sample(requests, sampling)}
        seconds = alternate(run, repeat)[""]
        found.append(
            {"samples": count, "tokens_per_second": count * GROWTH_TOKENS / seconds, "bytes": peak_memory(run[""])}
        )
    return found


def changed(policy: Endless, label: str, requests: list[Request], limit: int) -> dict:
    """How many samples are others when the order is reversed and there are fewer slots: only rounding may tell."""
    sampler = LocalSampler(policy, "ours", label)
    one, other = (SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=limit, batch_size=n) for n in (ROWS, 5))
    before, after = sampler.sample(requests, one), sampler.sample(requests[::-1], other)[::-1]
    differing = sum(a.token_ids != b.token_ids for a, b in zip(before, after, strict=True))
    return {"samples": len(requests), "tokens": limit, "differing": differing}


def floor(policy: Endless, dtype: torch.dtype, prefilled: int, sampled: int, repeat: int) -> float:
    """Seconds of the linear layers alone: the body's on all tokens, the head's on the sampled ones."""
    layers = [module for module in policy.model.base_model.modules() if isinstance(module, nn.Linear)]
    head = policy.model.get_output_embeddings()
    weights = {layer: layer.weight.detach().to(dtype) for layer in [*layers, head]}

    def pass_through(modules: list[nn.Linear], rows: int) -> float:
        inputs = {layer: weights[layer].new_ones(rows, layer.in_features) for layer in modules}
        run = {"": lambda: [functional.linear(inputs[layer], weights[layer]) for layer in modules]}
        return alternate(run, repeat)[""]

    steps = sampled / ROWS
    return pass_through(layers, prefilled) + steps * (pass_through(layers, ROWS) + pass_through([head], ROWS))


def print_table(name: str, results: list[Result]) -> None:
    table = Table(title=name, title_justify="left", title_style="bold")
    for column in (
        "sampler",
        "tokens/s",
        "to generate",
        "to the first",
        "prefill, s",
        "over floor",
        "MiB above",
    ):
        table.add_column(column, justify="left" if column == "sampler" else "right")
    by_name = {result.name: result for result in results}
    for result in results:
        generate = by_name.get(f"generate {result.name.split()[-1]}")
        table.add_row(
            result.name,
            f"{result.tokens_per_second:.0f}",
            f"{generate.seconds / result.seconds:.2f}" if generate else "–",
            f"{results[0].seconds / result.seconds:.2f}",
            f"{result.prefill_seconds:.2f}",
            f"{result.over_floor:.2f}",
            f"{result.extra_bytes / 2**20:,.0f}",
        )
    Console(width=120).print(table)


def print_growth(report: dict) -> None:
    table = Table(title="ours, attacks at a time", title_justify="left", title_style="bold")
    for column in ("dtype", *(f"{count}: tokens/s, MiB" for count in GROWTH), "samples that differ in another order"):
        table.add_column(column, justify="left" if column == "dtype" else "right")
    for label, rows in report["growth"].items():
        cells = (f"{row['tokens_per_second']:.0f}, {row['bytes'] / 2**20:.0f}" for row in rows)
        other = report["changed"][label]
        table.add_row(label, *cells, f"{other['differing']} of {other['samples']}")
    Console(width=120).print(table)


def draw(report: dict, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, case) in zip(figure.subplots(1, 2), report["cases"].items(), strict=True):
        labels = [result["name"] for result in case["results"]]
        colors = ["C0" if label.startswith("ours") else "C7" for label in labels]
        axes.barh(labels, [result["tokens_per_second"] for result in case["results"]], color=colors)
        axes.invert_yaxis()
        axes.set(title=name, xlabel="sampled tokens per second")
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
