"""A red-team report as Markdown and as a page. All that models and seeds say is escaped in both."""

import re
from pathlib import Path

import jinja2

from advgame.trainer.base.files import write_text
from advgame.trainer.base.text import one_line, printable
from advgame.trainer.measure.rates import Rate
from advgame.trainer.measure.redteam import RedTeaming
from advgame.trainer.report.labels import DIVERSITY
from advgame.trainer.report.tables import headline, shown_rates
from advgame.trainer.report.wording import number, outcome, percent_of

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
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            undefined=jinja2.StrictUndefined,
            autoescape=form == "html",
            finalize=lambda value: printable(str(value)),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {
            "fenced": fenced,
            "inline": inline,
            "rate": percent_of,
            "number": number,
            "outcome": outcome,
        }
        write_text(folder / f"report.{form}", environment.get_template(f"redteam.{form}.jinja").render(values))


def parts(results: RedTeaming) -> dict[str, dict[str, Rate]]:
    """The rates of all attempts, then of each value of the field that they are split by."""
    split = {f"{results.by_field}: {value or '–'}": rates for value, rates in results.by.items()}
    return {"all": results.rates} | split


def fenced(text: str) -> str:
    """A code block of Markdown that nothing in the text can close."""
    text = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def inline(text: str) -> str:
    """A line of Markdown in which nothing is markup."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line(printable(text)))
