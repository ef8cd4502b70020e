"""Every Triton kernel, at every configuration that may run, compiled ahead of time: no GPU is needed.

    python bench/aot.py                           Ampere, Hopper and Blackwell
    python bench/aot.py --targets 90 --json runs/bench/aot.json

The table shows what the compiler made of each: registers, spills, shared memory, warps that fit on a multiprocessor,
and which matrix instructions.
"""

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import triton
from rich.console import Console
from rich.table import Table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from advgame.kernels.triton import LEVELS, TILE, backward, columns, forward, launch

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""That a program may use: A100, H100, B200."""
POINTERS = {"bf16": ("*bf16", "*fp16"), "fp32": ("*fp32", "*fp32")}
"""Dtypes of weights and of kept probabilities."""


@dataclasses.dataclass(frozen=True)
class Build:
    """One kernel at one configuration."""

    name: str
    module: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, object]
    options: dict[str, int]
    gemm: bool


@dataclasses.dataclass
class Report:
    name: str
    target: int
    registers: int
    spilled: int
    """Bytes of stack and local memory."""
    shared: int
    warps: int
    resident_warps: int
    """That fit on a multiprocessor at once, of 64."""
    gemm: bool
    matrix: str
    """Matrix instructions, and how many."""


def builds() -> Iterator[Build]:
    for dtype, (weight, probs) in POINTERS.items():
        size = 2 if dtype == "bf16" else 4
        precision = {"PRECISION": launch.PRECISION[size]}
        group = {"GROUP_TOKENS": launch.GROUP_TOKENS}
        pointers = {
            "hidden": weight, "weight": weight, "bias": weight, "compact": weight, "probs": probs,
            "targets": "*i64", "columns": "*i32", "counts": "*i32", "ends": "*i32",
        }  # fmt: skip
        bare = {"bias": None, "tile_weighted": None, "tile_mass": None}
        kinds = {"forward": bare, "forward only": bare | {"probs": None}, "forward + entropy, cap": {}}
        for name, absent in kinds.items():
            for config in (launch.FORWARD if absent else launch.FORWARD_WITH_MORE)[size]:
                fixed = (absent, precision, {"TILE": TILE})
                yield _build(name, forward, "forward_kernel", dtype, pointers, config, *fixed)
        tiles = {"TILE": TILE} | group
        yield _build("energy", columns, "energy_kernel", dtype, pointers, launch.ENERGY, {}, tiles)
        yield _build("gather", backward, "gather_kernel", dtype, pointers, launch.GATHER, {}, tiles)
        yield _build("hidden", backward, "hidden_kernel", dtype, pointers, launch.HIDDEN[size], {}, precision, group)
        for name, absent in (("weight", {"grad_bias": None}), ("weight + bias", {}), ("bias", {"grad_weight": None})):
            yield _build(
                name, backward, "weight_kernel", dtype, pointers, launch.WEIGHT[size], absent, precision, group
            )
    yield _build("combine", forward, "combine_kernel", "fp32", {}, launch.COMBINE, {})
    yield _build("below", columns, "below_kernel", "fp32", {}, launch.BELOW, {}, {"LEVELS": LEVELS})
    whole = {"counts": "*i32", "ends": "*i32", "columns": "*i32"}
    yield _build("count", columns, "count_kernel", "fp32", whole, launch.COUNT, {})
    yield _build("compact", columns, "compact_kernel", "fp32", whole, launch.COUNT, {})


SCALARS = {"softcap": "fp32", "inverse_temperature": "fp32"}
INTEGERS = {"n", "padded", "vocab", "width", "tiles", "first", "capacity", "groups", "size"}


def _build(name, module, kernel, dtype, pointers, config, absent, *constants) -> Build:
    constants = {key: value for part in constants for key, value in part.items()} | absent
    constants |= {key: value for key, value in config.items() if key.isupper()}
    signature = {}
    for argument in getattr(module, kernel).arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in INTEGERS:
            signature[argument] = "i32"
        else:
            signature[argument] = SCALARS.get(argument) or pointers.get(argument, "*fp32")
    options = {key: value for key, value in config.items() if key.startswith("num_")}
    blocks = " ".join(
        f"{key.removeprefix('BLOCK_')}{value}" for key, value in config.items() if key.startswith("BLOCK_")
    )
    gemm = kernel in ("forward_kernel", "hidden_kernel", "weight_kernel") and name != "bias"
    label = f"{name} {dtype} {blocks} w{options['num_warps']}"
    return Build(label, module.__name__, kernel, signature, constants, options, gemm)


def compile_one(build: Build, target: int) -> Report:
    """Raises what the compiler raises, RuntimeError where shared memory runs out."""
    kernel = getattr(sys.modules[build.module], build.kernel)
    # What the launcher would find: pointers and sizes divisible by 16.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(build.signature.items())
        if kind.startswith("*") or name in ("padded", "width", "capacity", "vocab")
    }
    source = ASTSource(kernel, build.signature, build.constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", target, 32), options=build.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        sass = _tool("nvdisasm", "-c", file.name)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", usage)}
    matrix = re.findall(r"\b(HMMA|HGMMA|UTC[A-Z]*MMA|QGMMA)\b", sass)
    shared, warps = compiled.metadata.shared, build.options["num_warps"]
    programs = min(
        64 // warps, 65536 // (numbers["REG"] * 32 * warps), (SHARED_BYTES[target] + 1024) // (shared + 1024)
    )
    return Report(
        build.name,
        target,
        numbers["REG"],
        numbers["STACK"] + numbers["LOCAL"],
        shared,
        warps,
        programs * warps,
        build.gemm,
        f"{len(matrix)} {matrix[0]}" if matrix else "",
    )


def _tool(name: str, *arguments: str) -> str:
    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    path = folder / name if (folder / name).exists() else shutil.which(name)
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="80,90,100", help="compute capabilities times ten")
    parser.add_argument("--json", type=Path, default=Path("runs/bench/aot.json"))
    parser.add_argument("--strict", action="store_true", help="fail where a kernel spills or does without tensor cores")
    options = parser.parse_args()
    targets = [int(target) for target in options.targets.split(",")]
    jobs = [(build, target) for target in targets for build in builds()]
    with ProcessPoolExecutor() as pool:
        reports = list(pool.map(compile_one, *zip(*jobs, strict=True)))
    print_table(reports)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([dataclasses.asdict(report) for report in reports], indent=1))
    print(options.json)
    if options.strict:
        sys.exit("\n".join(problem for report in reports for problem in problems(report)) or 0)


def problems(report: Report) -> Iterator[str]:
    if report.spilled:
        yield f"sm_{report.target} {report.name}: {report.spilled} bytes spilled"
    if report.shared > SHARED_BYTES[report.target]:
        yield f"sm_{report.target} {report.name}: {report.shared} bytes of shared memory do not fit"
    if report.gemm and not report.matrix:
        yield f"sm_{report.target} {report.name}: no matrix instructions"


def print_table(reports: list[Report]) -> None:
    table = Table(title=f"triton {triton.__version__}", title_justify="left", title_style="bold")
    for column in ("kernel", "sm", "registers", "spilled", "shared KiB", "warps of 64", "matrix instructions"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for r in reports:
        spilled = f"[red]{r.spilled}" if r.spilled else "0"
        shared = f"{r.shared / 1024:.0f}"
        table.add_row(r.name, str(r.target), str(r.registers), spilled, shared, str(r.resident_warps), r.matrix)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
