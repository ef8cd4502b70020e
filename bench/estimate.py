"""Draws what the paper's game is predicted to take with players of 7 to 70 billion parameters on 1 to 1,024 GPUs.

    python bench/estimate.py            docs/estimate.png and the figures as JSON beside the other results

Predictions of `advgame estimate`, not measurements: the paper's game, 32 seeds a batch or one a GPU where that is more.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from advgame.trainer.estimate.cards import CARDS
from advgame.trainer.estimate.predict import Change, changed, predict
from advgame.trainer.estimate.shapes import read_shape
from advgame.trainer.settings.load import load_config

ROOT = Path(__file__).parents[1]
MODELS = ("llama-7b", "llama-13b", "llama-34b", "llama-70b")
GPUS = [2**n for n in range(11)]
ENGINES: dict[str, Change] = {
    "single": {"engine": "single", "zero.offload": "none"},
    "zero, stage 3": {"engine": "zero", "zero.offload": "none"},
    "zero, stage 3, the idle player offloaded": {"engine": "zero", "zero.offload": "idle_player"},
}


def sweep(card: str, efficiency: float) -> list[dict]:
    config, rows = load_config("recipes/qwen2.5-7b", []), []
    for model in MODELS:
        shapes = dict.fromkeys(("attacker", "defender"), read_shape(model, "model"))
        for engine, change in ENGINES.items():
            for gpus in GPUS:
                batch = max(32, 4 * gpus)
                found = predict(changed(config, change | {"batch_size": batch}), shapes, gpus, CARDS[card], efficiency)
                assert found.seconds is not None
                rows.append(
                    {
                        "model": model, "engine": engine, "gpus": gpus, "batch_size": batch, "fits": found.fits,
                        "peak_gb": found.memory.peak / 1e9, "seconds": found.seconds.joint, "kwh": found.seconds.kwh,
                    }
                )  # fmt: skip
    return rows


def draw(rows: list[dict], card: str, efficiency: float, file: Path) -> None:
    figure, (memory, time) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    styles = dict(zip(ENGINES, (":", "-", "--"), strict=True))
    for index, model in enumerate(MODELS):
        for engine, style in styles.items():
            line = [row for row in rows if (row["model"], row["engine"]) == (model, engine)]
            gpus = [row["gpus"] for row in line]
            label = model if engine == "zero, stage 3" else None
            memory.plot(gpus, [row["peak_gb"] for row in line], style, color=f"C{index}", label=label)
            if engine == "zero, stage 3":
                time.plot(gpus, [row["seconds"] for row in line], style, color=f"C{index}", label=label)
    memory.axhline(CARDS[card].memory / 1e9, color="black", linewidth=1)
    for engine, style in styles.items():
        memory.plot([], [], style, color="grey", label=engine)
    for axes, label in ((memory, "peak memory of a GPU, GB"), (time, "seconds of a joint step, zero, stage 3")):
        axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel=label)
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
    memory.legend(fontsize=8)
    figure.suptitle(f"Predicted, not measured: {card}, {efficiency:.0%} of its peaks; the line is what a GPU has")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--card", default="h100-80")
    parser.add_argument("--efficiency", type=float, default=0.4)
    parser.add_argument("--json", type=Path, default=ROOT / "bench/results/estimate/sweep.json")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/estimate.png")
    options = parser.parse_args()
    rows = sweep(options.card, options.efficiency)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw(rows, options.card, options.efficiency, options.plot)


if __name__ == "__main__":
    main()
