"""Learning curves, as a PNG."""

import math
from pathlib import Path

from advgame.trainer.outputs import replacing

METRICS = (
    ("rewards", (("game", "attacker_reward", "attacker"), ("game", "defender_reward", "defender"))),
    (
        "attack success, benign compliance",
        (("game", "attack_success", "attack success"), ("game", "benign_compliance", "benign compliance")),
    ),
    ("share of attacks", (("game", "parsed", "parsed"), ("game", "faithful", "faithful, if parsed"))),
    ("loss", (("attacker", "loss", "attacker"), ("defender", "loss", "defender"))),
    ("pair accuracy", (("attacker", "accuracy", "attacker"), ("defender", "accuracy", "defender"))),
    (
        "tokens per sample",
        (("game", "prompt_tokens", "attacker"), ("game", "response_tokens", "defender")),
    ),
)

EVALUATION = (
    (
        "attack success on held-out seeds",
        (
            ("current", "attack_success", "current attacker"),
            ("initial", "attack_success", "initial attacker"),
            ("written", "attack_success", "held-out attacks"),
        ),
    ),
    (
        "benign compliance on held-out seeds",
        (
            ("current", "benign_compliance", "current attacker"),
            ("initial", "benign_compliance", "initial attacker"),
            ("plain", "benign_compliance", "plain seeds"),
        ),
    ),
    (
        "over-refusal on held-out seeds",
        (
            ("current", "over_refusal", "current attacker"),
            ("initial", "over_refusal", "initial attacker"),
            ("plain", "over_refusal", "plain seeds"),
        ),
    ),
    (
        "diversity of the attacks",
        (
            ("diversity", "distinct_2", "distinct-2"),
            ("diversity", "self_bleu", "self-BLEU"),
            ("diversity", "embedding_spread", "embedding spread"),
        ),
    ),
)

SMOOTH_FROM = 100
"""Points of a curve from which it is smoothed."""


def draw(panels: tuple, records: list[dict], file: Path) -> bool:
    """Draws what was measured over the steps into `file`; False where matplotlib is not installed."""
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
                _curve(axes, *zip(*points, strict=True), label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    with replacing(file) as half:
        figure.savefig(half, dpi=120, format="png")
    return True


def _curve(axes, steps: tuple[int, ...], values: tuple[float, ...], label: str) -> None:
    """A long one is noise: it is drawn faintly, and over it the means of twentieths of it around each step."""
    if len(values) <= SMOOTH_FROM:
        axes.plot(steps, values, marker=".", label=label)
        return
    reach = len(values) // 40
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    (line,) = axes.plot(steps, [sum(window) / len(window) for window in windows], label=label)
    axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8, zorder=1)


def draw_matrices(matrices: dict[str, list[list[float | None]]], steps: list[int], file: Path) -> bool:
    """Draws payoff matrices, [attacker][defender] in shares, side by side; False where matplotlib is not installed."""
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
