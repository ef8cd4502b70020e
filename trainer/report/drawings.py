"""Curves as SVG inside a page: each panel by itself, on the page's background, in its colour of text."""

import io
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from advgame.trainer.measure.detection import Estimate
from advgame.trainer.measure.rates import Rate
from advgame.trainer.report.labels import RATES
from advgame.trainer.report.plots import Lines, Panel, draw_panel
from advgame.trainer.report.wording import number, percent_alone

INK = "#010203"
"""Stands for the page's colour of text, which takes its place in the SVG."""

COLORS = ("#3b82d6", "#c8641e", "#2e9450", "#a65fc7")
"""Each has a contrast of 3 or more to white and to near black (WCAG 2.2, 1.4.11)."""

STROKES = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))
"""For those to whom the colours look alike; dotted is what is unjudged."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "advgame",  # the same curves are the same file
    "font.size": 12,
    "legend.fontsize": 11,
    "legend.title_fontsize": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 2,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": INK,
}


@dataclass(frozen=True)
class Drawing:
    """A panel with its curves."""

    title: str
    told: str
    """What the curves say, for those who do not see them."""
    svg: Markup


def drawings(panels: tuple[Panel, ...], records: list[dict]) -> list[Drawing] | None:
    """Those of the panels that have anything to show; None if matplotlib is not installed."""
    try:
        import cycler
        import matplotlib
    except ImportError:
        return None
    curves = cycler.cycler(color=COLORS, linestyle=STROKES)
    with matplotlib.rc_context(STYLE | {"axes.prop_cycle": curves}):
        return [_drawing(title, lines, records) for title, lines in panels if told(lines, records)]


def told(lines: Lines, records: list[dict]) -> str:
    """The first and the last figure of each curve, in words; nothing of curves without any."""
    curves = []
    for section, key, label in lines:
        known = [(text, record["step"]) for record in records if (text := _text(key, record[section].get(key)))]
        if known:
            ends = known[:1] if len(known) == 1 else [known[0], known[-1]]
            curves.append(f"{label}: " + ", ".join(f"{text} at step {step}" for text, step in ends))
    return "; ".join(curves)


def _text(key: str, figure: dict | float | None) -> str:
    """A figure of a record in words, nothing if it was not measured."""
    if isinstance(figure, dict) and key in RATES:
        return percent_alone(Rate(**figure)) if Rate(**figure).asked else ""
    value = Estimate(**figure).value if isinstance(figure, dict) else figure
    return "" if value is None else number(value, ".3g")


def _drawing(title: str, lines: Lines, records: list[dict]) -> Drawing:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.2))
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.32, top=0.92)  # a layout engine would draw it twice
    axes = figure.add_subplot()
    draw_panel(axes, title, lines, records)
    if legend := axes.get_legend():  # outside, where it hides no curve
        legend.remove()
        handles, heading = axes.get_legend_handles_labels(), legend.get_title().get_text()
        figure.legend(*handles, title=heading or None, loc="upper center", bbox_to_anchor=(0.5, 0.2), ncols=2)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    words = told(lines, records)
    return Drawing(title, words, _inline(out.getvalue(), f"{title}, by step. {words}"))


def _inline(document: str, label: str) -> Markup:
    """The svg element of a file, as wide as there is room, with ids of its own."""
    svg = document[document.index("<svg") :].replace(INK, "currentColor")
    box = re.search(r'viewBox="[\d. ]+"', svg)
    own = re.sub(r"\W+", "-", label.partition(",")[0])
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{own}-", svg)
    opening = f'<svg {box[0] if box else ""} role="img" aria-label="{escape(label)}">'
    return Markup(re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1))
