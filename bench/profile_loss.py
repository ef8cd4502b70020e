"""Where the time of the fused loss goes: kernel by kernel, beside bare products of the same shape.

    python bench/profile_loss.py                                    on a CPU, operator by operator
    python bench/profile_loss.py --shape 8192,4096,131072 --device cuda --dtype bfloat16

The policy's loss and gradients only, after a warm-up. "busy" is the sum of the kernels; beyond it a GPU waits for the
host. The bare products make a chunk's logits by cuBLAS: what a forward kernel of ours has to beat, the float32 one with
a pass for its statistics on top.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
from loss import gradients, ours, place
from rich.console import Console
from rich.table import Table
from support.data import LossInputs, synthetic_inputs
from support.measure import alternate, synchronize
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from advgame.kernels.fused import primitives

ROWS = 20
"""Kernels in the table; all are in the JSON."""


@dataclasses.dataclass
class Kernel:
    name: str
    calls: float
    """In a step."""
    milliseconds: float
    """In a step, all its calls together."""


def bench(inputs: LossInputs, repeat: int) -> dict:
    reference_logps = torch.zeros(len(inputs.cu_seqlens) - 1, device=inputs.hidden.device)
    step = lambda: gradients(ours("auto"), inputs, reference_logps)  # noqa: E731
    seconds = alternate({"step": step} | products(inputs), repeat)
    kernels = profiled(step, repeat, DeviceType.CUDA if inputs.hidden.is_cuda else DeviceType.CPU)
    return {
        "tokens": len(inputs.targets),
        "hidden": inputs.hidden.size(1),
        "vocab": len(inputs.weight),
        "dtype": str(inputs.hidden.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if inputs.hidden.is_cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "kernels": [dataclasses.asdict(kernel) for kernel in kernels],
    }


def products(inputs: LossInputs) -> dict[str, Callable]:
    """All logits, a chunk at a time into one buffer: of the inputs' dtype, and in float32 where cuBLAS can do that."""
    limit = primitives("triton" if inputs.hidden.is_cuda else "cpu").CHUNK_TOKENS
    chunks, words = inputs.hidden.split(limit), inputs.weight.T
    made = {}
    for dtype in {inputs.hidden.dtype, torch.float32} if inputs.hidden.is_cuda else {inputs.hidden.dtype}:
        buffer = inputs.hidden.new_empty(limit, len(inputs.weight), dtype=dtype)
        options = {} if dtype == inputs.hidden.dtype else {"out_dtype": dtype}

        def run(buffer=buffer, options=options) -> None:
            for chunk in chunks:
                torch.mm(chunk, words, out=buffer[: len(chunk)], **options)

        made[f"logits in {str(dtype).removeprefix('torch.')}"] = run
    return made


def profiled(step: Callable, repeat: int, device: DeviceType) -> list[Kernel]:
    """What ran on the device, the longest first."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == DeviceType.CUDA else [])]
    with profile(activities=activities) as profiler:
        for _ in range(repeat):
            step()
        synchronize()
    spent = "self_device_time_total" if device == DeviceType.CUDA else "self_cpu_time_total"
    events = [event for event in profiler.key_averages() if event.device_type == device and getattr(event, spent)]
    kernels = [Kernel(event.key, event.count / repeat, getattr(event, spent) / repeat / 1e3) for event in events]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)


def print_table(report: dict) -> None:
    times, kernels = report["milliseconds"], report["kernels"]
    busy = sum(kernel["milliseconds"] for kernel in kernels)
    title = f"T={report['tokens']:,} H={report['hidden']} V={report['vocab']:,}  {report['dtype']}  {report['device']}"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("", "calls", "ms", "of the step"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for kernel in kernels[:ROWS]:
        share = kernel["milliseconds"] / times["step"]
        table.add_row(kernel["name"][:70], f"{kernel['calls']:.0f}", f"{kernel['milliseconds']:.3f}", f"{share:.1%}")
    calls, spent = (sum(kernel[key] for kernel in kernels[ROWS:]) for key in ("calls", "milliseconds"))
    table.add_row(f"{len(kernels[ROWS:])} others", f"{calls:.0f}", f"{spent:.3f}", f"{spent / times['step']:.1%}")
    table.add_section()
    table.add_row("busy", "", f"{busy:.3f}", f"{busy / times['step']:.1%}")
    for name, value in times.items():
        table.add_row(name, "", f"{value:.3f}", f"{value / times['step']:.1%}")
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1000,576,49152", help="T,H,V")
    parser.add_argument("--repeat", type=int, default=5, help="steps")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path, default=Path("runs/bench/profile.json"))
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    inputs = synthetic_inputs(*(int(number) for number in options.shape.split(",")), options.device)
    report = bench(place(inputs, options.device, getattr(torch, options.dtype)), options.repeat)
    print_table(report)
    options.json.write_text(json.dumps(report, indent=1))
    print(options.json)


if __name__ == "__main__":
    main()
