"""Memory and traffic of a rank, against the number of ranks and what they share out: measured, and as predicted.

    python bench/scale.py                                       10M and 30M parameters, 1 and 2 ranks, stages 0 to 3
    python bench/scale.py --models 135M --ranks 1 --stages 0,2

Both players learn and sample (bench/footprint.py), each point in processes of its own; the largest rank counts. Stage 0
is engine=single, the others need deepspeed. Predictions are those of `advgame estimate`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from support.machine import machine
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from advgame.trainer.estimate.memory import memory
from advgame.trainer.estimate.plan import plan, shapes_of
from advgame.trainer.estimate.predict import PLAYERS
from advgame.trainer.estimate.work import traffic
from advgame.trainer.models.built.arena import make_tokenizer
from advgame.trainer.models.load import quiet
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

FOOTPRINT = Path(__file__).parent / "footprint.py"
SIZES = {
    "10M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 4},
    "30M": {"vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
            "num_attention_heads": 8, "num_key_value_heads": 4},
    "135M": {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
             "num_attention_heads": 9, "num_key_value_heads": 3},
}  # fmt: skip
"""Llamas with tied heads; the largest has the shape of SmolLM2-135M."""
TIGHT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What is freed is given back to the system at once, so that resident memory is what is held."""


def make_model(size: str, folder: Path) -> Path:
    """Random weights, and a tokenizer that knows as many words."""
    shape = SIZES[size]
    tokenizer = make_tokenizer([f"w{i}" for i in range(shape["vocab_size"] - 9)])
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape, **ends, tie_word_embeddings=True))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder / size)
    tokenizer.save_pretrained(folder / size)
    return folder / size


def settings(model: Path, stage: int) -> list[str]:
    """Packs that are full: three attacks' groups, and four responses' groups, of samples of 64 tokens.

    In float32, which takes the same on every processor.
    """
    found = ["batch_size=6", "steps_per_batch=1", f"engine={'zero' if stage else 'single'}", f"zero.stage={stage}"]
    for name in PLAYERS:
        found += [f"{name}.model={model}", f"{name}.samples=2", f"{name}.sampling.max_new_tokens=64"]
        found += [f"{name}.optimizer.tokens_per_pack=1024", f"{name}.precision=float32"]
        found += [f"{name}.sampling.precision=float32"]
    return found


def footprints(overrides: list[str], ranks: int) -> list[dict[str, dict[str, float]]]:
    """Of each rank, in bytes (bench/footprint.py)."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    ran = subprocess.run(
        [*launcher, str(FOOTPRINT), *overrides], capture_output=True, text=True, env=os.environ | TIGHT
    )
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    if ran.returncode or len(lines) != ranks:
        raise RuntimeError(ran.stderr[-4000:])
    return lines


def measure(overrides: list[str], ranks: int) -> dict[str, float]:
    """GB of the rank that takes most, and that it sends."""
    lines = footprints(overrides, ranks)
    largest = {name: max(line["memory"][name] for line in lines) for name in lines[0]["memory"]}
    found = {"held": largest["held"]}
    for name in PLAYERS:
        found[f"the {name} learns"] = largest["held"] + largest[f"the {name} learns"]
    sent = {name: max(line["sent"][name] for line in lines) for name in lines[0]["sent"]}
    found["sent, learning"] = sum(sent[f"the {name} learns"] for name in PLAYERS)
    found["sent, filling"] = sum(sent[f"the {name}'s sampler is filled"] for name in PLAYERS)
    return {name: size / 1e9 for name, size in found.items()}


def predict(config: Config, ranks: int) -> dict[str, float]:
    """The same, by the estimate."""
    planned = plan(config, shapes_of(config), ranks, cuda=torch.cuda.is_available())
    found, sent = memory(planned), {name: traffic(player, planned) for name, player in planned.players.items()}
    sizes = {"held": found.always}
    sizes |= {f"the {name} learns": found.peaks[f"the {name} learns"] for name in PLAYERS}
    sizes["sent, learning"] = sum(of.gradients + of.weights for of in sent.values())
    sizes["sent, filling"] = sum(of.refill + of.compared for of in sent.values())
    return {name: size / 1e9 for name, size in sizes.items()}


def print_table(report: dict) -> None:
    table = Table(title=report["machine"], title_justify="left", title_style="bold")
    for column in ("model", "stage", "ranks", "GB, measured / predicted: held", "attacker learns", "defender learns"):
        table.add_column(column, justify="right")
    for column in ("sent, learning", "sent, filling", "largest error of memory"):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        pairs = [f"{row['measured'][name]:.3f} / {row['predicted'][name]:.3f}" for name in row["measured"]]
        table.add_row(row["model"], str(row["stage"]), str(row["ranks"]), *pairs, f"{error(row):.1%}")
    Console(width=170).print(table)


def error(row: dict) -> float:
    """The largest relative difference of a prediction of memory."""
    names = ["held", *(f"the {name} learns" for name in PLAYERS)]
    return max(abs(row["predicted"][name] / row["measured"][name] - 1) for name in names)


def draw(report: dict, file: Path) -> None:
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in report["rows"]))
    figure = Figure(figsize=(4.6 * len(models), 3.8), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        rows = [row for row in report["rows"] if row["model"] == model]
        names = [f"stage {row['stage']}\n{row['ranks']} rank{'s' * (row['ranks'] > 1)}" for row in rows]
        axes.bar(names, [row["measured"]["the defender learns"] for row in rows], label="measured")
        predicted = [row["predicted"]["the defender learns"] for row in rows]
        axes.plot(names, predicted, "k_", markersize=18, markeredgewidth=2, label="predicted")
        axes.set_title(f"{model} parameters", loc="left")
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("memory of a rank while the defender learns, GB")
    figure.axes[0].legend()
    figure.suptitle(report["machine"], fontsize=9)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="10M,30M", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--stages", default="0,1,2,3")
    parser.add_argument(
        "--json", type=Path, default=Path("runs/bench/scale.json"), help="results; the plot goes beside"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    options = parser.parse_args()
    quiet()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report: dict = {"machine": machine(), "torch": torch.__version__, "settings": options.overrides, "rows": []}
    if options.json.exists() and (before := json.loads(options.json.read_text())) == report | {"rows": before["rows"]}:
        report = before  # points that are there are not measured again
    done = {(row["model"], row["ranks"], row["stage"]) for row in report["rows"]}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.models.split(","):
            model = make_model(size, Path(folder))
            for ranks in map(int, options.ranks.split(",")):
                for stage in map(int, options.stages.split(",")):
                    if (size, ranks, stage) in done:
                        continue
                    overrides = [*settings(model, stage), *options.overrides]
                    predicted = predict(load_config("tiny", overrides), ranks)
                    row = {"model": size, "stage": stage, "ranks": ranks, "measured": measure(overrides, ranks)}
                    report["rows"].append(row | {"predicted": predicted})
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    draw(report, options.json.with_suffix(".png"))
    print(f"{options.json} {options.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
