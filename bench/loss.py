"""The preference loss from hidden states: ours against plain PyTorch and the peers, side by side in one run.

    python bench/loss.py                          real hidden states and a large vocabulary, float32
    python bench/loss.py --shape 2000,896,152064 --peers eager,liger --repeat 9 --dtype bfloat16
    python bench/loss.py --shape 8192,4096,128256 --dtype bfloat16 --device cuda
    python bench/loss.py --scaling                time against tokens and against the vocabulary

Every contender makes a DPO loss of the same pairs, and its gradients by hidden states and LM head. "step" has the
reference's forward pass in it, "policy" has not. The floor is the time of the bare forward GEMMs, in the same run.
Who runs out of memory is listed as such.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from support.data import LossInputs, mean_entropy, real_inputs, synthetic_inputs
from support.measure import alternate, copy_bandwidth, peak_memory
from torch import Tensor

from advgame.kernels import linear_logprobs, linear_preference_loss
from advgame.kernels.fused import release_buffers

BETA = 0.1
Logprobs = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden [T, H], weight [V, H], targets [T]) -> log-probs [T]"""


@dataclasses.dataclass
class Result:
    name: str
    step_seconds: float
    policy_seconds: float | None
    extra_bytes: int
    """At the peak, above the inputs and the two gradients."""
    loss_error: float
    hidden_error: float
    weight_error: float


def preference_from(logprobs: Logprobs) -> Callable:
    """DPO on top of per-token log-probs: what one writes around a fused cross-entropy."""

    def run(inputs: LossInputs, reference_logps: Tensor | None) -> Tensor:
        sums = sequence_sums(logprobs(inputs.hidden, inputs.weight, inputs.targets), inputs.cu_seqlens)
        if reference_logps is None:
            with torch.no_grad():
                reference = logprobs(inputs.reference_hidden, inputs.reference_weight, inputs.targets)
                reference_logps = sequence_sums(reference, inputs.cu_seqlens)
        ratios = sums - reference_logps
        return -F.logsigmoid(BETA * (ratios[0::2] - ratios[1::2])).mean()

    return run


def sequence_sums(logps: Tensor, cu_seqlens: Tensor) -> Tensor:
    return torch.stack([part.sum() for part in logps.split(cu_seqlens.diff().tolist())])


def ours(filter_eps: float | str) -> Callable:
    def run(inputs: LossInputs, reference_logps: Tensor | None) -> Tensor:
        if reference_logps is None:
            with torch.no_grad():
                reference = linear_logprobs(
                    inputs.reference_hidden, inputs.reference_weight, inputs.targets, filter_eps=filter_eps
                )
                reference_logps = sequence_sums(reference, inputs.cu_seqlens)
        return linear_preference_loss(
            inputs.hidden, inputs.weight, inputs.targets, inputs.cu_seqlens, reference_logps,
            beta=BETA, filter_eps=filter_eps,
        ).loss  # fmt: skip

    return run


def eager_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As most trainers write it: all logits, log_softmax, gather."""
    return (hidden @ weight.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def torch_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none")


def cce_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from cut_cross_entropy import linear_cross_entropy

    implementation = "cce" if hidden.is_cuda else "torch_compile"
    return -linear_cross_entropy(hidden, weight, targets, reduction="none", impl=implementation)


def liger() -> Callable:
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    loss = LigerFusedLinearDPOLoss(beta=BETA, use_ref_model=True)

    def run(inputs: LossInputs, reference_logps: Tensor | None) -> Tensor:
        """Liger pads to a rectangle, chosen sequences before rejected ones, and always runs the reference itself."""
        lengths = inputs.cu_seqlens.diff().tolist()

        def rectangle(packed: Tensor, fill: float) -> Tensor:
            parts = packed.split(lengths)
            return torch.nn.utils.rnn.pad_sequence([*parts[0::2], *parts[1::2]], batch_first=True, padding_value=fill)

        return loss(
            inputs.weight,
            rectangle(inputs.hidden, 0.0),
            rectangle(inputs.targets, -100),
            ref_input=rectangle(inputs.reference_hidden, 0.0),
            ref_weight=inputs.reference_weight,
        )[0]

    return run


def contenders(peers: list[str]) -> dict[str, Callable]:
    """Everybody who is installed; the others are named on stderr."""
    makers = {
        "eager": lambda: preference_from(eager_logprobs),
        "compile": lambda: preference_from(torch.compile(eager_logprobs)),
        "liger": liger,
        "cce": lambda: preference_from(cce_logprobs),
        "torch-lce": lambda: preference_from(torch_logprobs),
    }
    unknown = set(peers) - set(makers)
    if unknown:
        sys.exit(f"--peers: unknown {', '.join(sorted(unknown))}; known are {', '.join(makers)}")
    chosen = {"ours": ours("auto"), "ours exact": ours(0.0)}
    for name in peers:
        try:
            if name == "cce":
                import cut_cross_entropy  # noqa: F401
            if name == "torch-lce":
                from torch.nn.functional import linear_cross_entropy  # noqa: F401
            chosen[name] = makers[name]()
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return chosen


def gradients(run: Callable, inputs: LossInputs, reference_logps: Tensor | None) -> tuple[float, Tensor, Tensor]:
    leaves = {name: getattr(inputs, name).detach().requires_grad_() for name in ("hidden", "weight")}
    loss = run(dataclasses.replace(inputs, **leaves), reference_logps)
    loss.backward()
    return loss.item(), leaves["hidden"].grad, leaves["weight"].grad


def exact(inputs: LossInputs) -> tuple[float, Tensor, Tensor, Tensor]:
    """(loss, dX, dW, reference_logps) in float64, from a few tokens' logits at a time."""
    hidden, weight = inputs.hidden.double(), inputs.weight.double()
    logps, reference = [], []
    for begin in range(0, len(hidden), 256):
        part = slice(begin, begin + 256)
        logps.append(linear_logprobs(hidden[part], weight, inputs.targets[part], backend="eager"))
        reference_part = inputs.reference_hidden[part].double(), inputs.reference_weight.double()
        reference.append(linear_logprobs(*reference_part, inputs.targets[part], backend="eager"))
    reference_logps = sequence_sums(torch.cat(reference), inputs.cu_seqlens)
    leaf = torch.cat(logps).requires_grad_()
    ratios = sequence_sums(leaf, inputs.cu_seqlens) - reference_logps
    loss = -F.logsigmoid(BETA * (ratios[0::2] - ratios[1::2])).mean()
    loss.backward()
    d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
    for begin in range(0, len(hidden), 256):
        part = slice(begin, begin + 256)
        d_logits = -(hidden[part] @ weight.T).softmax(-1) * leaf.grad[part, None]
        d_logits[torch.arange(len(d_logits)), inputs.targets[part]] += leaf.grad[part]
        d_hidden[part] = d_logits @ weight
        d_weight += d_logits.T @ hidden[part]
    return loss.item(), d_hidden, d_weight, reference_logps.float()


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def bench(inputs: LossInputs, peers: list[str], repeat: int) -> dict:
    """All contenders on one input."""
    console = Console(stderr=True)
    tokens, vocab = len(inputs.targets), len(inputs.weight)
    console.print(f"{inputs.name}: {tokens} tokens in {len(inputs.cu_seqlens) - 1} sequences, {inputs.hidden.dtype}")
    loss, d_hidden, d_weight, reference_logps = exact(inputs)
    runs = contenders(peers)
    outputs = inputs.hidden.nbytes + inputs.weight.nbytes
    buffer = torch.empty(tokens, vocab, dtype=inputs.hidden.dtype, device=inputs.hidden.device)
    timed = {"gemm": lambda: torch.mm(inputs.hidden, inputs.weight.T, out=buffer)}
    errors, memory = {}, {}
    for name, run in runs.items():
        console.print(f"  {name}", style="dim")
        try:
            actual = gradients(run, inputs, None)  # warms up, compiles
        except torch.OutOfMemoryError:
            console.print("  runs out of memory")
            continue
        errors[name] = (
            abs(actual[0] - loss) / abs(loss),
            relative(actual[1], d_hidden),
            relative(actual[2], d_weight),
        )
        del actual
        release_buffers()  # ours: what is kept from the warm-up counts
        memory[name] = max(0, peak_memory(lambda run=run: gradients(run, inputs, None)) - outputs)
        timed[f"{name}/step"] = lambda run=run: gradients(run, inputs, None)
        if name != "liger":  # which cannot be given reference log-probs
            timed[f"{name}/policy"] = lambda run=run: gradients(run, inputs, reference_logps)
    seconds = alternate(timed, repeat)
    results = [
        Result(name, seconds[f"{name}/step"], seconds.get(f"{name}/policy"), memory[name], *errors[name])
        for name in errors
    ]
    return {
        "input": inputs.name,
        "tokens": tokens,
        "hidden": inputs.hidden.size(1),
        "vocab": vocab,
        "dtype": str(inputs.hidden.dtype).removeprefix("torch."),
        "entropy": mean_entropy(inputs),
        "gemm_seconds": seconds["gemm"],
        "gemm_tflops": 2 * tokens * vocab * inputs.hidden.size(1) / seconds["gemm"] / 1e12,
        "copy_bytes_per_second": copy_bandwidth(inputs.hidden.device.type, repeat),
        "device": torch.cuda.get_device_name() if inputs.hidden.is_cuda else f"CPU, {torch.get_num_threads()} threads",
        "out_of_memory": [name for name in runs if name not in errors],
        "torch": torch.__version__,
        "results": [dataclasses.asdict(result) for result in results],
    }


def print_table(report: dict) -> None:
    rows = report["results"]
    eager = next((row for row in rows if row["name"] == "eager"), None)
    floor = 2 * report["gemm_seconds"]
    title = (
        f"{report['input']}  T={report['tokens']:,} H={report['hidden']} V={report['vocab']:,}  {report['dtype']}  "
        f"entropy {report['entropy']:.2f}  GEMM {readable(report['gemm_seconds'])} s "
        f"({report['gemm_tflops']:.2f} TFLOP/s)  copy {report['copy_bytes_per_second'] / 1e9:.0f} GB/s"
    )
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in ("step s", "× eager", "× 2 GEMMs", "policy s", "× GEMM", "extra MiB", "loss err", "dX err", "dW err"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            readable(row["step_seconds"]),
            f"{eager['step_seconds'] / row['step_seconds']:.2f}" if eager else "",
            f"{row['step_seconds'] / floor:.2f}",
            readable(row["policy_seconds"]) if row["policy_seconds"] else "",
            f"{row['policy_seconds'] / report['gemm_seconds']:.2f}" if row["policy_seconds"] else "",
            f"{row['extra_bytes'] / 2**20:.0f}",
            *(f"{row[key]:.1e}" for key in ("loss_error", "hidden_error", "weight_error")),
        )
    for name in report["out_of_memory"]:
        table.add_row(name, "out of memory")
    Console(width=150).print(table)


def readable(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds > 0.1 else f"{seconds:.5f}"


def draw(reports: list[dict], file: Path) -> None:
    """Time against memory, a panel an input."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(reports), 4.5), layout="constrained")
    for place, report in enumerate(reports, start=1):
        axes = figure.add_subplot(1, len(reports), place)
        for row in report["results"]:
            x, y = row["extra_bytes"] / 2**20, row["step_seconds"]
            axes.scatter(x, y, s=60, label=row["name"])
        axes.axhline(2 * report["gemm_seconds"], linestyle="--", color="gray", label="the two forward GEMMs alone")
        axes.set(
            title=report["input"],
            xlabel="extra peak memory, MiB",
            ylabel="policy and reference, s",
            xlim=(0, None),
            ylim=(0, None),
        )
        axes.legend()
    figure.savefig(file, dpi=120)


def scaling(repeat: int, file: Path) -> list[dict]:
    """Our time (policy only) against tokens and against the vocabulary."""
    from matplotlib.figure import Figure

    points = []
    for tokens, vocab in [(t, 32768) for t in (250, 500, 1000, 2000, 4000)] + [(1000, v) for v in (8192, 16384, 65536)]:
        inputs = synthetic_inputs(tokens, 576, vocab)
        reference_logps = torch.zeros(len(inputs.cu_seqlens) - 1)
        seconds = alternate({"ours": lambda i=inputs, r=reference_logps: gradients(ours("auto"), i, r)}, repeat)["ours"]
        points.append({"tokens": tokens, "vocab": vocab, "seconds": seconds})
        print(
            f"T={tokens:>5} V={vocab:>6}: {seconds:.3f} s, {seconds / tokens / vocab * 1e9:.2f} ns per token and word"
        )
    figure = Figure(figsize=(10, 4), layout="constrained")
    for place, (axis, fixed) in enumerate((("tokens", ("vocab", 32768)), ("vocab", ("tokens", 1000))), start=1):
        line = sorted((p[axis], p["seconds"]) for p in points if p[fixed[0]] == fixed[1])
        axes = figure.add_subplot(1, 2, place)
        axes.plot(*zip(*line, strict=True), marker="o")
        axes.set(xlabel=axis, ylabel="forward and backward, s", xlim=(0, None), ylim=(0, None))
        axes.set_title(f"{fixed[0]} = {fixed[1]:,}")
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="real,large", help="real, large, both, or T,H,V")
    parser.add_argument("--peers", default="eager,compile,liger,cce,torch-lce", help="whom to compare with")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs of each")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path, default=Path("runs/bench/loss.json"), help="results; the plot goes beside")
    parser.add_argument("--scaling", action="store_true", help="time against tokens and vocabulary instead")
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    if options.scaling:
        reports = scaling(options.repeat, options.json.with_suffix(".png"))
    else:
        device = options.device
        makers = {"real": real_inputs, "large": lambda: synthetic_inputs(2000, 896, 152064, device)}
        names = options.shape.split(",")
        if set(names) <= set(makers):
            shapes = [makers[name] for name in names]
        else:
            shapes = [lambda: synthetic_inputs(*map(int, names), device)]
        reports = []
        for make in shapes:
            inputs = place(make(), device, getattr(torch, options.dtype))
            reports.append(bench(inputs, options.peers.split(","), options.repeat))
            print_table(reports[-1])
        draw(reports, options.json.with_suffix(".png"))
    options.json.write_text(json.dumps(reports, indent=1))
    print(f"{options.json} {options.json.with_suffix('.png')}")


def place(inputs: LossInputs, device: str, dtype: torch.dtype) -> LossInputs:
    def moved(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else value.dtype)

    return dataclasses.replace(inputs, **{k: moved(v) for k, v in vars(inputs).items() if isinstance(v, Tensor)})


if __name__ == "__main__":
    main()
