"""A red-team report as Markdown and as a page."""

from pathlib import Path

from advgame.trainer.base.files import write_text
from advgame.trainer.measure.redteam import RedTeaming
from advgame.trainer.report.labels import ABOUT_DETECTION, DIVERSITY
from advgame.trainer.report.redteaming import headline, parts
from advgame.trainer.report.rendering import render

ABOUT_RATES = (
    "Shares of the attempts that were judged, with 95% intervals: Wilson's, which take attempts as independent of each "
    "other, and by seeds, from resamples of the seeds, each with all attempts on it. Attempts without a verdict are "
    f"not counted. An attack that is malformed, cut off or unfaithful has failed. {ABOUT_DETECTION}"
)


def write_pages(results: RedTeaming, folder: Path) -> None:
    """report.md and report.html."""
    values = {
        "results": results,
        "headline": headline(results),
        "about_rates": ABOUT_RATES,
        "parts": parts(results),
        "diversity": {label: results.diversity[name] for name, label in DIVERSITY.items()},
    }
    for form in ("md", "html"):
        write_text(folder / f"report.{form}", render(f"redteam.{form}.jinja", values))
