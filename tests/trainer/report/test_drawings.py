"""Curves inside a page: readable on light and on dark, told in words, absent where there is nothing."""

import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from advgame.trainer.measure.rates import rate
from advgame.trainer.report import drawings as module
from advgame.trainer.report.drawings import COLORS, drawings, told

PANELS = (
    ("rewards", (("game", "attacker_reward", "attacker"), ("game", "defender_reward", "defender"))),
    ("success", (("game", "attack_success", "success"),)),
    ("nothing", (("game", "never", "never"),)),
)
STYLE = Path(module.__file__).with_name("base.html.jinja").read_text(encoding="utf-8")


def records(steps: int) -> list[dict]:
    return [
        {"step": step, "game": {"attacker_reward": step / 4, "attack_success": asdict(rate([True, None][: step + 1]))}}
        for step in range(steps)
    ]


def luminance(color: str) -> float:
    """Relative, of #rgb or #rrggbb (WCAG 2.2)."""
    digits = color.lstrip("#")
    parts = [
        int(part, 16) / 255 for part in (re.findall("..", digits) if len(digits) == 6 else [d * 2 for d in digits])
    ]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def colors(theme: str) -> dict[str, str]:
    """The page's, by name; dark ones replace some of the light ones."""
    light, dark = (dict(re.findall(r"--(\w+): (#\w+);", part)) for part in re.findall(r":root {(.*?)}", STYLE))
    return light | (dark if theme == "dark" else {})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_has_contrast(theme):
    named = colors(theme)
    for name in ("ink", "note", "bad", "link"):
        assert contrast(named[name], named["paper"]) >= 4.5, name
    for color in COLORS:
        assert contrast(color, named["paper"]) >= 3, color


def test_a_panel_without_figures_is_left_out():
    pytest.importorskip("matplotlib")
    drawn = drawings(PANELS, records(3))
    assert [drawing.title for drawing in drawn] == ["rewards", "success"]
    assert drawings(PANELS, []) == []
    for drawing in drawn:
        assert drawing.svg.startswith("<svg ") and drawing.svg.rstrip().endswith("</svg>")
        assert drawing.told in drawing.svg and module.INK not in drawing.svg and "currentColor" in drawing.svg
    assert drawn == drawings(PANELS, records(3))


def test_the_ends_of_a_curve_are_told():
    assert told(PANELS[0][1], records(3)) == "attacker: 0 at step 0, 0.5 at step 2"
    assert told(PANELS[1][1], records(2)) == "success: 100% at step 0, 100% (1 of 2 unjudged) at step 1"
    assert told(PANELS[2][1], records(2)) == ""


def test_without_matplotlib_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert drawings(PANELS, records(3)) is None
