"""Everything that is said to a model, as templates in text files."""

import difflib
import html
import itertools
from pathlib import Path

import jinja2

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, DEFENDER_FORMATS

TEMPLATES = Path(__file__).parents[1] / "templates"
"""The shipped ones."""


class Prompts:
    """Renders the templates; those in `folder` (a path, or `small`) replace the shipped ones of the same name.

    Raises ConfigError where one of them has a wrong name, or cannot be rendered.
    """

    def __init__(self, folder: str | None = None):
        self._folder = folder
        folders = [TEMPLATES] if folder is None else [_resolve(folder), TEMPLATES]
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folders),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # these are prompts, not pages; judge() escapes what models wrote
            trim_blocks=True,
            lstrip_blocks=True,
        )
        if folder is not None:
            self._check(_resolve(folder))

    def attacker(self, category: str, format: str, query: str) -> str:
        """Asks the attacker to rewrite a seed's query."""
        return self._render(f"attacker_{category}", format=f"attacker_format_{format}.txt", query=query)

    def defender(self, format: str, instruction: str, prompt: str) -> str:
        """Shows an attack to the defender."""
        return self._render("defender", format=f"defender_format_{format}.txt", instruction=instruction, prompt=prompt)

    def judge(self, rubric: str, category: str, query: str, candidates: tuple[str, ...]) -> str:
        """Asks the judge. Texts by models and users are escaped: none can close its tag or forge a score."""
        form = rubric if rubric == "faithfulness" else "pairwise" if len(candidates) == 2 else "pointwise"
        return self._render(
            f"judge_{form}",
            category=category,
            rubric=f"rubric_{rubric}.txt",
            query=html.escape(query, quote=False),
            candidates=[html.escape(candidate, quote=False) for candidate in candidates],
        )

    def _render(self, name: str, **values: object) -> str:
        try:
            return self._environment.get_template(f"{name}.txt").render(**values).strip()
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            where = f"{error.name}, line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else name
            raise ConfigError(f"templates={self._folder}: {where}: {error}") from error

    def _check(self, folder: Path) -> None:
        names = {path.name for path in TEMPLATES.glob("*.txt")}
        for path in sorted(folder.glob("*.txt")):
            if path.name not in names:
                close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.0)[0]
                raise ConfigError(f"templates={self._folder}: {path.name} replaces nothing; did you mean {close}?")
        categories = ("harmful", "benign")
        for category, format in itertools.product(categories, ATTACKER_FORMATS):
            self.attacker(category, format, "query")
        for format in DEFENDER_FORMATS:
            self.defender(format, "instruction", "prompt")
        for category in categories:
            self.judge("faithfulness", category, "query", ("a",))
            for rubric, texts in itertools.product(("compliance", "deflection", "refusal"), (("a",), ("a", "b"))):
                self.judge(rubric, category, "query", texts)


def _resolve(folder: str) -> Path:
    for path in (Path(folder), TEMPLATES / folder):
        if any(path.glob("*.txt")):
            return path
    raise ConfigError(f"templates={folder}: no .txt templates in there; see {TEMPLATES} for the names")
