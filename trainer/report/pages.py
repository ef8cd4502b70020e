"""A red-team report as Markdown and as a page."""

from pathlib import Path

from advgame.trainer.base.files import write_text
from advgame.trainer.measure.rates import Rate
from advgame.trainer.measure.redteam import RedTeaming
from advgame.trainer.report.labels import DIVERSITY
from advgame.trainer.report.rendering import render
from advgame.trainer.report.tables import headline, shown_rates

ABOUT_RATES = (
    "Shares of the attempts that were judged, with 95% intervals (Wilson), which take attempts as independent of each "
    "other. Attempts without a verdict are not counted. An attack that is malformed, cut off or unfaithful has failed."
)


def write_pages(results: RedTeaming, folder: Path) -> None:
    """report.md and report.html."""
    values = {
        "results": results,
        "headline": headline(results),
        "about_rates": ABOUT_RATES,
        "columns": shown_rates(results),
        "parts": parts(results),
        "diversity": {label: results.diversity[name] for name, label in DIVERSITY.items()},
    }
    for form in ("md", "html"):
        write_text(folder / f"report.{form}", render(f"redteam.{form}.jinja", values))


def parts(results: RedTeaming) -> dict[str, dict[str, Rate]]:
    """The rates of all attempts, then of each value of the field that they are split by."""
    split = {f"{results.by_field}: {value or '–'}": rates for value, rates in results.by.items()}
    return {"all": results.rates} | split
