"""Learning curves, as a PNG."""

import math
from pathlib import Path

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
            ("plain", "benign_compliance", "plain"),
            ("current", "benign_compliance", "current attacker"),
            ("initial", "benign_compliance", "initial attacker"),
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


def draw(panels: tuple, records: list[dict], file: Path) -> bool:
    """Draws what was measured over the steps into `file`; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        return False
    rows = math.ceil(len(panels) / 3)
    figure = Figure(figsize=(13, 3.5 * rows), layout="constrained")
    for place, (title, lines) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, 3, place)
        for section, key, label in lines:
            points = [(r["step"], r[section].get(key)) for r in records if r[section].get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(file, dpi=120)
    return True


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
    figure.savefig(file, dpi=120)
    return True
