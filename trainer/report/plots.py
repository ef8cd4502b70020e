"""Learning curves, as a PNG."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from advgame.trainer.base.files import replacing
from advgame.trainer.report.labels import DIVERSITY, RATES, SHOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = tuple[str, tuple[tuple[str, str, str], ...]]
"""A title, and a curve for each (section of the record, key, label)."""

METRICS: tuple[Panel, ...] = (
    ("rewards", (("game", "attacker_reward", "attacker"), ("game", "defender_reward", "defender"))),
    (
        f"{RATES['attack_success']}, {RATES['benign_compliance']}",
        tuple(("game", rate, RATES[rate]) for rate in ("attack_success", "benign_compliance")),
    ),
    ("share of attacks", (("game", "parsed", "parsed"), ("game", "faithful", "faithful, if parsed"))),
    ("loss", (("attacker", "loss", "attacker"), ("defender", "loss", "defender"))),
    ("pair accuracy", (("attacker", "accuracy", "attacker"), ("defender", "accuracy", "defender"))),
    ("tokens per sample", (("game", "prompt_tokens", "attacker"), ("game", "response_tokens", "defender"))),
)
"""What metrics.jsonl holds."""

EVALUATION: tuple[Panel, ...] = (
    *(
        (f"{RATES[rate]} on held-out seeds", tuple((name, rate, SHOWN[name]) for name in ("current", "initial", last)))
        for rate, last in (("attack_success", "written"), ("benign_compliance", "plain"), ("over_refusal", "plain"))
    ),
    (
        "diversity of the attacks",
        tuple(("diversity", name, DIVERSITY[name]) for name in ("distinct_2", "self_bleu", "embedding_spread")),
    ),
)
"""What evaluation.jsonl holds."""

SMOOTH_FROM = 100
"""Curves of more points than this are smoothed."""


def draw(panels: tuple[Panel, ...], records: list[dict], file: Path) -> bool:
    """Draws the records over their steps; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    columns = 3 if len(panels) % 3 == 0 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    for place, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for section, key, label in lines:
            points = [(r["step"], r[section].get(key)) for r in records if r[section].get(key) is not None]
            if points:
                _curve(axes, points, label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with replacing(file) as half:
        figure.savefig(half, dpi=120, format="png")
    return True


def draw_matrices(matrices: dict[str, list[list[float | None]]], steps: list[int], file: Path) -> bool:
    """Draws payoff matrices, [attacker][defender] in shares, side by side; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    side = 2.5 + 0.5 * len(steps)
    figure = Figure(figsize=(side * len(matrices), side + 0.5), layout="constrained")
    for axes, (title, matrix) in zip(figure.subplots(1, len(matrices)), matrices.items(), strict=True):
        shares = [[float("nan") if value is None else value for value in row] for row in matrix]
        axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
        for a, row in enumerate(matrix):
            for d, value in enumerate(row):
                text = "–" if value is None else f"{value:.0%}"
                light = value is not None and value < 0.6
                axes.text(d, a, text, ha="center", va="center", fontsize=8, color="white" if light else "black")
        axes.set_title(title)
        axes.set_xlabel("defender's step")
        axes.set_ylabel("attacker's step")
        axes.set_xticks(range(len(steps)), steps)
        axes.set_yticks(range(len(steps)), steps)
    with replacing(file) as half:
        figure.savefig(half, dpi=120, format="png")
    return True


def _curve(axes: "Axes", points: list[tuple[int, float]], label: str) -> None:
    """Long curves are noisy: they are drawn faintly, under a moving average over a twentieth of their length."""
    steps, values = ([point[i] for point in points] for i in (0, 1))
    if len(values) <= SMOOTH_FROM:
        axes.plot(steps, values, marker=".", label=label)
        return
    reach = len(values) // 40
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    (line,) = axes.plot(steps, [sum(window) / len(window) for window in windows], label=label)
    axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1)
