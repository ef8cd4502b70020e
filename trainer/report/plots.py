"""Learning curves, as a PNG."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from advgame.trainer.base.files import replacing
from advgame.trainer.measure.detection import Estimate
from advgame.trainer.measure.rates import Rate
from advgame.trainer.report.labels import DETECTION, DIVERSITY, RATES, SHOWN
from advgame.trainer.report.matrices import Cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.typing import ColorType

Lines = tuple[tuple[str, str, str], ...]
"""A curve for each (section of the record, key, label)."""

Panel = tuple[str, Lines]
"""A title, and the curves under it."""

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
        (label, tuple((name, rate, RATES[rate]) for rate in ("attack_success", "benign_compliance", "over_refusal")))
        for name, label in SHOWN.items()
    ),
    (
        " and ".join(DETECTION.values()),
        tuple((name, key, f"{DETECTION[key]}, {SHOWN[name]}") for key in DETECTION for name in ("current", "plain")),
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
    """Draws the records over their steps; False if matplotlib is not installed.

    A rate or an estimate has a band, its 95% interval; a rate also a dotted line, the share without a verdict, if there
    ever was one.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    columns = 3 if len(panels) % 3 == 0 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * rows), layout="constrained")
    for place, (title, lines) in enumerate(panels, start=1):
        draw_panel(figure.add_subplot(rows, columns, place), title, lines, records)
    with replacing(file) as half:
        figure.savefig(half, dpi=120, format="png")
    return True


def draw_panel(axes: "Axes", title: str, lines: Lines, records: list[dict]) -> None:
    """One panel of `draw`."""
    from matplotlib.ticker import MaxNLocator

    for section, key, label in lines:
        figures = {r["step"]: r[section][key] for r in records if r[section].get(key) is not None}
        rates = {step: Rate(**known) for step, known in figures.items() if key in RATES}
        estimates = {step: Estimate(**known) for step, known in figures.items() if key in DETECTION}
        if asked := {step: rate for step, rate in rates.items() if rate.asked}:
            _rate_curve(axes, asked, label)
        elif any(estimate.value is not None for estimate in estimates.values()):
            values = [estimate.value for estimate in estimates.values()]
            _banded_curve(axes, estimates, values, label)
        elif figures and not rates and not estimates:
            _curve(axes, [*figures], [*figures.values()], label)
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if axes.lines:
        dotted = any(line.get_linestyle() == ":" for line in axes.lines)
        axes.legend(title="dotted: unjudged" if dotted else None)


def draw_matrices(matrices: dict[str, Cells], steps: list[int], file: Path) -> bool:
    """Draws payoff matrices by their titles, two in a row; False if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    side, columns = 2.5 + 0.9 * len(steps), min(len(matrices), 2)
    rows = math.ceil(len(matrices) / columns)
    figure = Figure(figsize=(side * columns, (side + 0.5) * rows), layout="constrained")
    for place, (title, matrix) in enumerate(matrices.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow([[_or_nan(cell.shade) for cell in row] for row in matrix], vmin=0, vmax=1, cmap="viridis")
        for a, row in enumerate(matrix):
            for d, cell in enumerate(row):
                color = "white" if cell.shade is not None and cell.shade < 0.6 else "black"
                axes.text(d, a, cell.text, ha="center", va="center", fontsize=6, color=color)
        axes.set_title(title)
        axes.set_xlabel("defender's step")
        axes.set_ylabel("attacker's step")
        axes.set_xticks(range(len(steps)), map(str, steps))
        axes.set_yticks(range(len(steps)), map(str, steps))
    with replacing(file) as half:
        figure.savefig(half, dpi=120, format="png")
    return True


def _rate_curve(axes: "Axes", at_steps: dict[int, Rate], label: str) -> None:
    """A rate, its interval, and the share without a verdict; a gap where nothing is known."""
    color = _banded_curve(axes, at_steps, [rate.share for rate in at_steps.values()], label)
    if any(rate.unjudged for rate in at_steps.values()):
        unjudged = [_or_nan(rate.unjudged_share) for rate in at_steps.values()]
        axes.plot([*at_steps], unjudged, color=color, linestyle=":")


def _banded_curve(
    axes: "Axes", at_steps: Mapping[int, Rate | Estimate], values: list[float | None], label: str
) -> "ColorType":
    """Values and their intervals; a gap where nothing is known. Returns the color."""
    steps = [*at_steps]
    color = _curve(axes, steps, [*map(_or_nan, values)], label)
    if len(steps) <= SMOOTH_FROM:
        low, high = ([_or_nan(getattr(known, name)) for known in at_steps.values()] for name in ("low", "high"))
        axes.fill_between(steps, low, high, color=color, alpha=0.12, linewidth=0)
    return color


def _curve(axes: "Axes", steps: list[int], values: list[float], label: str) -> "ColorType":
    """Long curves are noisy: they are drawn faintly, under a moving average over a twentieth of their length.

    Returns the color.
    """
    if len(values) <= SMOOTH_FROM:
        (line,) = axes.plot(steps, values, marker=".", label=label)
        return line.get_color()
    reach = len(values) // 40
    (line,) = axes.plot(steps, [_mean_around(values, i, reach) for i in range(len(values))], label=label)
    axes.plot(steps, values, color=line.get_color(), linestyle="-", alpha=0.25, linewidth=0.8, zorder=1)
    return line.get_color()


def _mean_around(values: list[float], place: int, reach: int) -> float:
    """Of the known values that are `reach` or less away; nan where the value itself is not known."""
    known = [value for value in values[max(0, place - reach) : place + reach + 1] if not math.isnan(value)]
    return math.nan if math.isnan(values[place]) else sum(known) / len(known)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
