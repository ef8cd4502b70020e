"""A training step of both players: ours against what the published code does, on the same rollouts, in one run.

    python bench/step.py                          SmolLM2-135M, and a small model with a vocabulary of 152,064
    python bench/step.py --model smollm2-135m --repeat 9

Attacker and defender take a step each: gradients, clipping, AdamW, moving average. From the published step to ours, one
idea is added at a time. Times are medians, taken in turns; memory is the peak above weights and optimiser.
"""

import argparse
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table
from support.measure import alternate, peak_memory
from support.players import make_player, make_policies
from support.reference import BETA, padded, published_loss, published_metrics
from support.rollouts import Case, large_vocabulary, qwen, smollm2
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from advgame.kernels import PreferenceOutput, linear_preference_loss
from advgame.kernels.fused import release_buffers
from advgame.trainer.learn.collate import group_of
from advgame.trainer.learn.forward import Player, packed_attention, response_hidden
from advgame.trainer.learn.loss import make_objective
from advgame.trainer.learn.recompute import Recompute
from advgame.trainer.learn.step import Learner, accumulate, follow
from advgame.trainer.models.head import head
from advgame.trainer.packs import Group, pack, plan_packs
from advgame.trainer.records import Pair
from advgame.trainer.settings.schema import LossConfig, Precision

Backward = Callable[[Learner, list[Pair]], object]
"""Leaves the gradients of the mean loss over the pairs in the learner's policy."""


@dataclass
class Result:
    name: str
    seconds: float
    extra_bytes: int
    """At the peak, above weights and optimiser; gradients included."""
    tokens: int
    """Forwarded through the transformer, padding and reference included."""
    flops: float
    """Of the step, counted by torch; those of our operators as if they compacted nothing."""
    gradient_error: float
    """Relative Frobenius distance to the published step's in float64, of both players' gradients together."""


def published(learner: Learner, pairs: list[Pair]) -> None:
    without_metrics(learner, pairs)
    published_metrics(learner.policies.ema.model, pairs)  # of another model there, which costs the same


def without_metrics(learner: Learner, pairs: list[Pair]) -> None:
    published_loss(learner.policies.policy.model, learner.policies.ema.model, pairs).backward()


def padded_step(backend: str | None) -> Backward:
    """Padded, chosen and rejected apart, but only response tokens reach the LM head."""

    def backward(learner: Learner, pairs: list[Pair]) -> None:
        with torch.no_grad():
            zeros = torch.zeros(2 * len(pairs), device=learner.policies.ema.model.device)
            reference_logps = loss(learner.policies.ema.model, pairs, zeros).sequence_logps
        loss(learner.policies.policy.model, pairs, reference_logps).loss.backward()

    def loss(model: PreTrainedModel, pairs: list[Pair], reference_logps: Tensor) -> PreferenceOutput:
        sides = []
        for rollouts in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs]):
            ids, attention_mask, mask = padded(rollouts, model.device)
            states = model.base_model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            sides.append(states[:, :-1][mask.bool()].split([len(rollout.token_ids) for rollout in rollouts]))
        hidden = torch.cat([states for pair in zip(*sides, strict=True) for states in pair])
        return fused_loss(hidden, model, pairs, reference_logps, backend)

    return backward


def packed_step(learner: Learner, pairs: list[Pair]) -> None:
    """In packs, without padding, but each sequence has a prompt of its own."""
    policy, ema = learner.policies.policy.model, learner.policies.ema.model
    alone = [[Group(rollout.prompt_ids, [rollout.token_ids]) for rollout in pair.rollouts] for pair in pairs]
    whole = [Group(2 * group.prompt, group.completions) for group in map(group_of, pairs)]  # as long as both
    budget = max(learner.config.optimizer.tokens_per_pack, *(group.tokens for group in whole))
    for indices in plan_packs(whole, budget, share_prefixes=False):
        batch = pack([group for i in indices for group in alone[i]], policy.device, share_prefixes=False)
        part = [pairs[i] for i in indices]
        with packed_attention(ema), torch.no_grad():
            hidden, zeros = response_hidden(learner.policies.ema, batch), torch.zeros(2 * len(part), device=ema.device)
            reference_logps = fused_loss(hidden, ema, part, zeros, None).sequence_logps
        with packed_attention(policy):
            loss = fused_loss(response_hidden(learner.policies.policy, batch), policy, part, reference_logps, None).loss
            (loss * (len(part) / len(pairs))).backward()


def fused_loss(
    hidden: Tensor, model: PreTrainedModel, pairs: list[Pair], reference_logps: Tensor, backend: str | None
) -> PreferenceOutput:
    responses = [rollout.token_ids for pair in pairs for rollout in pair.rollouts]
    targets = torch.tensor([token for ids in responses for token in ids], device=hidden.device)
    cu_seqlens = torch.tensor([0, *(len(ids) for ids in responses)]).cumsum(0).int().to(hidden.device)
    return linear_preference_loss(
        hidden, targets=targets, cu_seqlens=cu_seqlens, reference_logps=reference_logps, beta=BETA,
        filter_eps=LossConfig().filter_eps, backend=backend,
        **head(model, hidden.dtype),
    )  # fmt: skip


def trainers(
    reference: str,
    share_prefixes: bool = True,
    recompute: Recompute = "cheap",
    filter_eps: float = LossConfig().filter_eps,
    precision: Precision | None = None,
) -> Backward:
    """What the trainer does, with these ideas on or off. precision: None is bfloat16 on CUDA, and float32 on CPUs."""

    def backward(learner: Learner, pairs: list[Pair]) -> None:
        loss = dataclasses.replace(learner.config.loss, filter_eps=filter_eps)
        config = dataclasses.replace(learner.config, reference=reference, loss=loss)
        policy = learner.policies.policy
        policy = policy.multiplying_in(precision) if precision else policy
        player = Player(policy, make_objective(loss))
        accumulate(dataclasses.replace(learner, player=player, config=config), pairs, share_prefixes, recompute)

    return backward


LADDER: dict[str, Backward] = {
    "published": published,
    "+ no forwards for metrics": without_metrics,
    "+ response tokens only": padded_step("eager"),
    "+ fused, compacted loss": padded_step(None),
    "+ packing": packed_step,
    "+ shared prompts": trainers("recompute", share_prefixes=False, recompute="none"),
    "+ shared instructions": trainers("recompute", recompute="none"),
    "+ rollout reference": trainers("rollout", recompute="none"),
    "+ norms, gates recomputed: ours": trainers("rollout"),
    "ours, exact": trainers("recompute", filter_eps=0.0),
    "ours, bfloat16": trainers("rollout", precision="bfloat16"),
}
"""Each step has one idea more than the one above; then the trainer's with nothing approximated, and with products of
bfloat16."""


def bench(case: Case, budget: int, repeat: int) -> dict:
    console = Console(stderr=True)
    console.print(f"{case.name}: {len(case.attacker)} pairs of the attacker, {len(case.defender)} of the defender")
    names = ("attacker", "defender")
    players = [(make_player(name, make_policies(case.policy), budget), getattr(case, name)) for name in names]
    for learner, pairs in players:  # the optimiser's state exists before anything is measured
        step(learner, pairs, LADDER["ours, exact"])

    results, expected = [], exact_gradients(players)
    norm = sum(e.square().sum().item() for e in expected) ** 0.5
    for name, backward in LADDER.items():
        console.print(f"  {name}", style="dim")
        gradients = []
        with counted(players) as count:
            for learner, pairs in players:
                backward(learner, pairs)
                gradients += [parameter.grad for parameter in learner.policies.policy.model.parameters()]
                learner.player.zero_grad()
        distance = sum((a - e).square().sum().item() for a, e in zip(gradients, expected, strict=True)) ** 0.5
        del gradients
        release_buffers()
        extra = peak_memory(lambda backward=backward: steps(players, backward))
        results.append(Result(name, 0.0, extra, *count(), distance / norm))
    del expected
    timed = {name: lambda backward=backward: steps(players, backward) for name, backward in LADDER.items()}
    for result, seconds in zip(results, alternate(timed, repeat, warm_up=False).values(), strict=True):
        result.seconds = seconds
    sampled = [len(rollout.token_ids) for _, pairs in players for pair in pairs for rollout in pair.rollouts]
    return {
        "case": case.name,
        "response_tokens": sum(sampled),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "results": [dataclasses.asdict(result) for result in results],
    }


@contextmanager
def counted(players: list[tuple[Learner, list[Pair]]]) -> Iterator[Callable[[], tuple[int, float]]]:
    """Counts what happens inside: (tokens through the transformers, FLOPs)."""
    tokens = 0

    def count(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        nonlocal tokens
        ids = kwargs.get("input_ids")
        tokens += (kwargs["inputs_embeds"][..., 0] if ids is None else ids).numel()

    policies = [policy for learner, _ in players for policy in (learner.policies.policy, learner.policies.ema)]
    hooks = [policy.model.base_model.register_forward_pre_hook(count, with_kwargs=True) for policy in policies]
    with FlopCounterMode(display=False, custom_mapping=HEAD_FLOPS) as counter:
        yield lambda: (tokens, counter.get_total_flops())
    for hook in hooks:
        hook.remove()


def head_flops(hidden_shape, weight_shape, *others, out_shape=None, **_) -> int:
    """Of the losses' operators: a forward pass, and a backward one where gradients come out."""
    backward = sum(1 for shape in out_shape[-3:] if shape is not None and len(shape) == 2 and 0 not in shape)
    return 2 * hidden_shape[0] * hidden_shape[1] * weight_shape[0] * (1 + backward)


HEAD_FLOPS = {
    torch.ops.advgame.preference: head_flops,
    torch.ops.advgame.logprobs: lambda hidden, weight, *_, **__: 2 * hidden[0] * hidden[1] * weight[0],
}


def exact_gradients(players: list[tuple[Learner, list[Pair]]]) -> list[Tensor]:
    """The published step's, in float64, pair by pair; on CUDA, where that is slow and large, in float32."""
    gradients = []
    for learner, pairs in players:
        models = [copy.deepcopy(policy.model) for policy in (learner.policies.policy, learner.policies.ema)]
        with torch.autocast("cuda", enabled=False):
            policy, reference = (model if model.device.type == "cuda" else model.double() for model in models)
            for pair in pairs:
                (published_loss(policy, reference, [pair]) / len(pairs)).backward()
        gradients += [parameter.grad.float() for parameter in policy.parameters()]
    return gradients


def steps(players: list[tuple[Learner, list[Pair]]], backward: Backward) -> None:
    for learner, pairs in players:
        step(learner, pairs, backward)


def step(learner: Learner, pairs: list[Pair], backward: Backward) -> None:
    """As `learn` takes it; the learning rate is 0 and the average keeps still, so that all steps are alike."""
    backward(learner, pairs)
    learner.engine.step(lr=0.0)
    follow(learner)


def print_table(report: dict) -> None:
    title = f"{report['case']}  {report['response_tokens']:,} response tokens  {report['threads']} threads"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("step s", "× published", "response tokens/s", "extra MiB", "tokens forwarded", "TFLOP", "gradient"):
        table.add_column(column, justify="right")
    base = report["results"][0]
    for row in report["results"]:
        table.add_row(
            row["name"],
            f"{row['seconds']:.2f}",
            f"{base['seconds'] / row['seconds']:.2f}",
            f"{report['response_tokens'] / row['seconds']:.0f}",
            f"{row['extra_bytes'] / 2**20:.0f}",
            f"{row['tokens']:,}",
            f"{row['flops'] / 1e12:.2f}",
            f"{row['gradient_error']:.1e}",
        )
    Console(width=140).print(table)


def draw(reports: list[dict], file: Path) -> None:
    """Two waterfalls for each case: what each idea takes off the step's time and off its memory."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8 * len(reports)), layout="constrained")
    grid = figure.subplots(len(reports), 2, squeeze=False, sharey="row")
    for (left, right), report in zip(grid, reports, strict=True):
        rows = [row for row in report["results"] if not row["name"].startswith("ours, ")]
        names = [row["name"] for row in rows]
        waterfall(left, names, [row["seconds"] for row in rows], "a step of both players, s", "{:.2f}")
        memory = [row["extra_bytes"] / 2**20 for row in rows]
        waterfall(right, names, memory, "peak above weights and optimiser, MiB", "{:,.0f}")
        left.set_title(report["case"], loc="left")
        left.invert_yaxis()
    figure.savefig(file, dpi=120)


def waterfall(axes, names: list[str], values: list[float], label: str, number: str) -> None:
    axes.barh(names, values, color="tab:blue")
    for name, before, after in zip(names[1:], values, values[1:], strict=False):
        axes.barh(name, before - after, left=after, color="tab:blue" if before > after else "tab:red", alpha=0.25)
    for place, value in enumerate(values):
        end, times = max(values[max(place - 1, 0)], value), values[0] / value
        axes.text(end, place, f" {number.format(value)}, {times:.1f}×", va="center")
    axes.set(xlabel=label, xlim=(0, 1.3 * max(values)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = {"smollm2-135m": smollm2, "large-vocabulary": large_vocabulary, "qwen": qwen}
    usual = "qwen" if torch.cuda.is_available() else "smollm2-135m,large-vocabulary"
    parser.add_argument("--model", default=usual, help=f"of {', '.join(cases)} (as large as the GPU takes)")
    few = 16 if torch.cuda.is_available() else 4
    parser.add_argument("--pairs", type=int, default=few, help=f"of the attacker, and as many of the defender ({few})")
    parser.add_argument("--tokens-per-pack", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/step.json"), help="results; the plot goes beside")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    unknown = set(options.model.split(",")) - set(cases)
    if unknown:
        parser.error(f"--model: unknown {', '.join(sorted(unknown))}; known are {', '.join(cases)}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    reports = []
    for name in options.model.split(","):
        case = cases[name](options.pairs)
        with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
            reports.append(bench(case, options.tokens_per_pack, options.repeat))
        print_table(reports[-1])
    options.json.write_text(json.dumps(reports, indent=1))
    draw(reports, options.json.with_suffix(".png"))
    print(f"{options.json} {options.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
