"""A red-team report as Markdown, as a page, and on the terminal. All that models and seeds say is escaped in each."""

import re
from pathlib import Path

import jinja2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from advgame.trainer.attempts import NO_VERDICT, OUTCOMES
from advgame.trainer.console import printable
from advgame.trainer.outputs import write

RATES = {
    "attack_success": "attack success",
    "best_of_n": "best of N",
    "benign_compliance": "benign compliance",
    "over_refusal": "over-refusal",
    "faithful": "faithful",
}
DIVERSITY = {
    "distinct_1": "distinct words",
    "distinct_2": "distinct word pairs",
    "self_bleu": "self-BLEU",
    "embedding_spread": "embedding spread",
}


def write_report(report: dict, folder: Path) -> None:
    """report.md and report.html."""
    values = report | {
        "headline": headline(report),
        "columns": columns(report),
        "parts": parts(report),
        "outcome_texts": OUTCOMES,
        "diversity_names": DIVERSITY,
    }
    for name in ("report.md", "report.html"):
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            undefined=jinja2.StrictUndefined,
            autoescape=name.endswith(".html"),
            finalize=lambda value: printable(str(value)),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"fenced": fenced, "inline": inline, "rate": shown_rate, "number": number}
        text = environment.get_template(f"{name}.jinja").render(values)
        write(folder / name, text)


def print_summary(report: dict) -> None:
    """One screen, but for a field of many values."""
    console, shown = Console(), columns(report)
    console.print(Text(headline(report), style="bold"), soft_wrap=True)
    rates = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, label in shown.items():
        rates.add_row(label, shown_rate(report["rates"][name]))
    console.print(rates)
    if report["by"]:
        split = Table(box=None, padding=(0, 2, 0, 0))
        for header in (report["by_field"], *shown.values()):
            split.add_column(Text(printable(header)), overflow="fold")
        for value, part in report["by"].items():
            split.add_row(Text(printable(value or "–")), *(shown_rate(part[name], interval=False) for name in shown))
        console.print(split)
    for outcome, count in report["outcomes"].items():
        console.print(Text(f"{count:>6}  {OUTCOMES[outcome]}"), soft_wrap=True)
    values = (f"{label} {number(report['diversity'][name])}" for name, label in DIVERSITY.items())
    console.print(Text(f"diversity of the attacks: {', '.join(values)}"), soft_wrap=True)


def headline(report: dict) -> str:
    """The rate that the report is about, in a sentence or two."""
    rate = report["rates"]["attack_success"]
    if not rate["trials"]:
        return "There are no harmful seeds: nothing can be said about attack success."
    missing = sum(a["category"] == "harmful" and a["outcome"] in NO_VERDICT for a in report["attempts"])
    unknown = f" {missing} of them could not be judged and count as failed." if missing else ""
    return (
        f"{rate['successes']} of {rate['trials']} attacks on harmful seeds succeed: {rate['share']:.1%} "
        f"(95% interval {rate['low']:.1%} to {rate['high']:.1%}).{unknown}"
    )


def columns(report: dict) -> dict[str, str]:
    """The rates that are shown, and their names."""
    n = report["attacks_per_seed"]
    return {name: label.replace("N", str(n)) for name, label in RATES.items() if name != "best_of_n" or n > 1}


def parts(report: dict) -> dict[str, dict]:
    """The rates of all attempts, then of each value of the field that they are split by."""
    field = report["by_field"]
    return {"all": report["rates"]} | {f"{field}: {value or '–'}": rates for value, rates in report["by"].items()}


def shown_rate(rate: dict, interval: bool = True) -> str:
    if not rate["trials"]:
        return "–"
    between = f" ({rate['low']:.0%}–{rate['high']:.0%})" if interval else ""
    return f"{rate['share']:.0%}{between} of {rate['trials']}"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def fenced(text: str) -> str:
    """A code block of Markdown that nothing in the text can close."""
    text = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def inline(text: str) -> str:
    """A line of Markdown in which nothing is markup."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(printable(text).split()))
