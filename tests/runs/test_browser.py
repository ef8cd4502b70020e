"""The page of a run in a real browser: it is there, in both themes, and no wider than the window."""

import html
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers import run_tiny

from advgame.trainer.commands.main import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
THEMES = {"light": 1, "dark": 0}
"""Chromium's numbers for prefers-color-scheme."""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """With everything on it: evaluations, and cross-play of five players that needs room."""
    evaluations = ("steps=4", "steps_per_batch=1", "eval.every=2", "eval.seeds=[tiny.jsonl]")
    run = run_tiny(tmp_path_factory.mktemp("page") / "run", *evaluations, "checkpoint.every=1", "checkpoint.keep=9")
    assert main(["crossplay", str(run)]) == main(["report", str(run)]) == 0
    return run / "report.html"


def browse(theme: str, width: int, *options: str) -> str:
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--blink-settings=preferredColorScheme={THEMES[theme]}", f"--window-size={width},2000"]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("theme", THEMES)
def test_it_is_drawn(page, theme, width, tmp_path):
    image = pytest.importorskip("PIL.Image")
    file = tmp_path / "page.png"
    browse(theme, width, f"--screenshot={file}", page.as_uri())
    with image.open(file) as shot:
        grey = shot.convert("L")
    assert grey.width == width
    shades = grey.getcolors()
    background = max(shades)[1]
    assert background > 240 if theme == "light" else background < 40
    contrasting = sum(count for count, shade in shades if abs(shade - background) > 100)
    assert contrasting > 2000  # letters and lines


@pytest.mark.parametrize("width", [400, 1200])
def test_it_is_no_wider_than_its_window(page, width, tmp_path):
    """Measured from outside, by a script in a page around it: its own policy allows none."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe width="{width}" height="900" srcdoc="{html.escape(page.read_text(encoding="utf-8"))}"></iframe>'
        "<script>onload = () => { const root = frames[0].document.documentElement;"
        "document.body.innerText = JSON.stringify([root.clientWidth, root.scrollWidth]) }</script>"
    )
    dom = browse("light", 1300, "--dump-dom", frame.as_uri())
    inner, needed = json.loads(dom[dom.index("[") : dom.index("]") + 1])
    assert inner > width - 20 and needed <= inner
