"""Templates of reports. All that models and seeds say is escaped: in pages by Jinja, in Markdown by filters."""

import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from advgame.trainer.base.text import one_line, printable
from advgame.trainer.report.wording import number, outcome


def render(template: str, values: dict) -> str:
    """A template of this folder, filled in; in an .html one, whatever is not Markup is text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=template.endswith(".html.jinja"),
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "fenced": fenced,
        "inline": inline,
        "number": number,
        "outcome": outcome,
    }
    return environment.get_template(template).render(values)


def fenced(text: str) -> str:
    """A code block of Markdown that nothing in the text can close."""
    text = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def inline(text: str) -> str:
    """A line of Markdown in which nothing is markup."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line(printable(text)))
