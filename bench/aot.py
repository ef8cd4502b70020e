"""Every Triton kernel, at every configuration that may run, compiled ahead of time: no GPU is needed.

    python bench/aot.py                           Ampere, Hopper and Blackwell
    python bench/aot.py --targets 90 --json runs/bench/aot.json

The table shows what the compiler made of each: registers, spills, shared memory, warps that fit on a multiprocessor,
and which matrix instructions; and for the GEMMs what a program reads and computes, and a floor for a whole pass over
T = 8,192 tokens at H = 4,096 and V = 131,072: the longest of its FLOPs at the matrix units' peak, what its programs
read at the bandwidth of L2, and what must cross the memory bus. "GEMM" is the FLOPs alone at that peak, which no
library's GEMM beats (cuBLAS reaches about 70% of it).
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

from advgame.kernels.decoding import BLOCK
from advgame.kernels.triton import CHUNK_TOKENS, LEVELS, TILE, backward, columns, decode, forward, launch, sample

SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""That a program may use: A100, H100, B200."""
TOKENS, WIDTH, VOCAB = 8192, 4096, 131072
KEPT = 0.15
"""Share of the vocabulary's columns that a group of 512 tokens keeps."""


@dataclasses.dataclass(frozen=True)
class Card:
    """Peaks of dense products and of bandwidth, from the vendor's data sheets; L2 from published measurements."""

    name: str
    bf16_flops: float
    tf32_flops: float
    memory_bytes: float
    l2_bytes: float


CARDS = {
    80: Card("A100", 312e12, 156e12, 2.0e12, 4.5e12),
    90: Card("H100", 989e12, 494e12, 3.35e12, 5.5e12),
    100: Card("B200", 2250e12, 1125e12, 8.0e12, 10e12),
}
"""By compute capability times ten."""
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
    work: "Work | None"
    milliseconds: float | None
    """Floor of a whole pass."""
    gemm_milliseconds: float | None
    """Floor of a bare GEMM of as many FLOPs."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Of a GEMM kernel, over the whole pass that the table is about."""

    programs: float
    flops: float
    """A program's."""
    read_bytes: float
    """By a program, through L2."""
    bus_bytes: float
    """Of the pass, at the least: every input once a chunk, every output once."""


def work_of(build: Build) -> Work:
    size = 4 if "fp32" in build.name else 2
    block = {key.removeprefix("BLOCK_"): value for key, value in build.constants.items() if key.startswith("BLOCK_")}
    chunks = TOKENS / CHUNK_TOKENS
    if build.kernel == "forward_kernel":
        stored = 0 if build.constants.get("probs", ...) is None else TOKENS * VOCAB * size
        return Work(
            programs=VOCAB / block["V"] * TOKENS / block["T"],
            flops=2 * block["V"] * block["T"] * WIDTH,
            read_bytes=(block["V"] + block["T"]) * WIDTH * size,
            bus_bytes=chunks * VOCAB * WIDTH * size + TOKENS * WIDTH * size + stored,
        )
    groups = TOKENS / launch.GROUP_TOKENS
    kept = KEPT * VOCAB
    gathered = groups * kept * launch.GROUP_TOKENS * size
    if build.kernel == "hidden_kernel":
        return Work(
            programs=TOKENS / block["T"] * WIDTH / block["H"],
            flops=2 * block["T"] * block["H"] * kept,
            read_bytes=(block["T"] + block["H"]) * kept * size,
            bus_bytes=gathered + groups * kept * WIDTH * size + TOKENS * WIDTH * 4,
        )
    rows = launch.COUNT["BLOCK"] * KEPT
    blocks = -(-rows // block["V"])
    return Work(
        programs=chunks * VOCAB / launch.COUNT["BLOCK"] * WIDTH / block["H"],
        flops=2 * rows * block["H"] * CHUNK_TOKENS,
        read_bytes=blocks * (block["V"] + block["H"]) * CHUNK_TOKENS * size,
        bus_bytes=gathered + TOKENS * WIDTH * size + 2 * groups * kept * WIDTH * (3 if size == 2 else 4),
    )


def floor(work: Work, card: Card, fp32: bool) -> tuple[float, float]:
    """Milliseconds of the pass, and of a bare GEMM of its FLOPs."""
    rate = card.tf32_flops / 3 if fp32 else card.bf16_flops
    compute = work.programs * work.flops / rate
    through_l2 = work.programs * work.read_bytes / card.l2_bytes
    return 1e3 * max(compute, through_l2, work.bus_bytes / card.memory_bytes), 1e3 * compute


def builds(target: int) -> Iterator[Build]:
    has_tma, size_class = launch.has_tma(target // 10), launch.size_class(target // 10)
    for dtype, (weight, probs) in POINTERS.items():
        size = 2 if dtype == "bf16" else 4
        precision = {"PRECISION": launch.PRECISION[size]}
        group = {"GROUP_TOKENS": launch.GROUP_TOKENS}
        pointers = {
            "hidden": weight, "weight": weight, "bias": weight, "compact": weight, "probs": probs,
            "grad_weight": weight, "weight_rest": "*i8",
            "targets": "*i64", "columns": "*i32", "counts": "*i32", "ends": "*i32",
        }  # fmt: skip

        def build(name, module, kernel, config, absent, *constants):
            return _build(name, module, kernel, dtype, pointers, has_tma, config, absent, *constants)  # noqa: B023

        bare = {"bias": None, "tile_weighted": None, "tile_mass": None}
        kinds = {"forward": bare, "forward only": bare | {"probs": None}, "forward + entropy, cap": {}}
        for name, absent in kinds.items():
            for config in launch.FORWARD[size_class][size]:
                yield build(name, forward, "forward_kernel", config, absent, precision, {"TILE": TILE})
        tiles = {"TILE": TILE} | group
        yield build("energy", columns, "energy_kernel", launch.ENERGY, {}, tiles)
        yield build("gather", backward, "gather_kernel", launch.GATHER, {}, tiles)
        yield build("hidden", backward, "hidden_kernel", launch.HIDDEN[size_class][size], {}, precision, group)
        rest = {"weight_rest": None} if dtype == "fp32" else {}
        for name, absent in (
            ("weight", {"grad_bias": None} | rest),
            ("weight + bias", rest),
            ("bias", {"grad_weight": None, "weight_rest": None}),
        ):
            config = launch.WEIGHT[size_class][size]
            yield build(name, backward, "weight_kernel", config, absent, precision, group)
        cache = {"WIDTH": 128, "BLOCK": BLOCK, "BLOCK_D": 128}
        pointers |= {"places": "*i64", "pieces": "*i32"}
        pointers |= dict.fromkeys(("keys", "values", "key", "value", "query", "output"), weight)
        yield build("cache", decode, "cache_kernel", launch.CACHE, {}, cache)
        for pieces in (1, 3):
            rows = {"ROWS": 16, "GROUP": 7, "PIECES": pieces}
            yield build(f"attend {pieces}", decode, "attention_kernel", launch.DECODE[size], {}, cache, rows, precision)
        yield _build("scale", backward, "scale_kernel", dtype, {"gradient": weight}, False, launch.SCALE, {})
    yield _build("combine", forward, "combine_kernel", "fp32", {}, False, launch.COMBINE, {})
    yield _build("below", columns, "below_kernel", "fp32", {}, False, launch.BELOW, {}, {"LEVELS": LEVELS})
    draws = {"uniforms": "*fp64", "tokens": "*i64"}
    for name, flags in (("greedy", (True, False)), ("sample", (False, False)), ("sample top-p", (False, True))):
        chosen = {"GREEDY": flags[0], "TRUNCATED": flags[1], "INVALID": sample.INVALID}
        yield _build(name, sample, "sample_kernel", "fp32", draws, False, launch.SAMPLE, {}, chosen)
    whole = {"counts": "*i32", "ends": "*i32", "columns": "*i32"}
    yield _build("count", columns, "count_kernel", "fp32", whole, False, launch.COUNT, {})
    yield _build("compact", columns, "compact_kernel", "fp32", whole, False, launch.COUNT, {})


SCALARS = dict.fromkeys(("softcap", "inverse_temperature", "scale", "temperature", "top_p"), "fp32")
INTEGERS = {"n", "blocks", "padded", "vocab", "width", "tiles", "first", "capacity", "groups", "size"}


def _build(name, module, kernel, dtype, pointers, has_tma, config, absent, *constants) -> Build:
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
    if has_tma:
        for matrix, sides in launch.BLOCKS.get(kernel, {}).items():
            if signature[matrix] != "constexpr":
                height, width = (constants[side] for side in sides)
                signature[matrix] = f"tensordesc<{signature[matrix].removeprefix('*')}[{height},{width}]>"
    options = {key: value for key, value in config.items() if key.startswith("num_")}
    blocks = " ".join(
        f"{key.removeprefix('BLOCK_')}{value}" for key, value in config.items() if key.startswith("BLOCK_")
    )
    gemm = kernel in ("forward_kernel", "hidden_kernel", "weight_kernel") and name != "bias"
    warps, stages = options["num_warps"], options.get("num_stages")
    label = f"{name} {dtype} {blocks} w{warps}" + (f" s{stages}" if stages else "")
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
    work = work_of(build) if build.gemm else None
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
        work,
        *(floor(work, CARDS[target], "fp32" in build.name) if work else (None, None)),
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
    jobs = [(build, target) for target in targets for build in builds(target)]
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
    for column in ("kernel", "card", "registers", "spilled", "shared KiB", "warps of 64", "matrix instructions"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for column in ("MFLOP", "KiB read", "FLOP/B", "floor ms", "GEMM ms"):
        table.add_column(column, justify="right")
    for r in reports:
        spilled = f"[red]{r.spilled}" if r.spilled else "0"
        row = [r.name, CARDS[r.target].name, str(r.registers), spilled, f"{r.shared / 1024:.0f}", str(r.resident_warps)]
        row.append(r.matrix)
        if r.work:
            row += [f"{r.work.flops / 1e6:.0f}", f"{r.work.read_bytes / 1024:.0f}"]
            row += [f"{r.work.flops / r.work.read_bytes:.0f}", f"{r.milliseconds:.1f}", f"{r.gemm_milliseconds:.1f}"]
        table.add_row(*row)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
