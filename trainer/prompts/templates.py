"""Everything that is said to a model, as templates in text files. They may be a stranger's: they run in a sandbox."""

import difflib
import html
import itertools
from pathlib import Path
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.paths import find, to_path
from advgame.trainer.base.text import one_line
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, DEFENDER_FORMATS

TEMPLATES = Path(__file__).parents[1] / "templates"
"""The shipped ones."""

QUERY, CANDIDATE_A, CANDIDATE_B = "2718281828", "3141592653", "1618033988"
"""What templates are tried with: digits survive whatever a template may do to letters."""

LONGEST = 1_000_000
"""Characters that a template may add to what it is given."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without products and ranges as well: they could make text of any size, or never end."""

    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        raise SecurityError(f"`{operator}` is not for templates")


class Prompts:
    """Renders the templates; those in `folder` (a path, or `small`) replace the shipped ones of the same name.

    Raises ConfigError where one of them has a wrong name, cannot be rendered, or leaves out what it is for.
    """

    def __init__(self, folder: str | None = None):
        self._folder = folder
        folders = [TEMPLATES] if folder is None else [_resolve(folder), TEMPLATES]
        self._environment = _Sandbox(
            loader=jinja2.FileSystemLoader(folders),
            undefined=jinja2.StrictUndefined,
            autoescape=False,  # these are prompts, not pages; judge() escapes what models wrote
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.clear()
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
            parts, room = [], LONGEST + sum(len(str(value)) for value in values.values())
            for part in self._environment.get_template(f"{name}.txt").generate(**values):
                parts.append(part)
                room -= len(part)
                if room < 0:
                    raise SecurityError(f"writes more than {LONGEST:,} characters of its own")
            return "".join(parts).strip()
        except Exception as error:  # templates are programs: they may raise anything
            where = f"{error.name}, line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else name
            reason = one_line(error) or type(error).__name__
            raise ConfigError(f"templates={self._folder}: {where}: {reason}") from error

    def _check(self, folder: Path) -> None:
        names = {path.name for path in TEMPLATES.glob("*.txt")}
        for path in sorted(folder.glob("*.txt")):
            if path.name not in names:
                close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.0)[0]
                raise ConfigError(f"templates={self._folder}: {path.name} replaces nothing; did you mean {close}?")
        categories = ("harmful", "benign")
        for category, format in itertools.product(categories, ATTACKER_FORMATS):
            self._check_use(f"attacker_{category}", self.attacker(category, format, QUERY), query=QUERY)
        for format in DEFENDER_FORMATS:
            self._check_use("defender", self.defender(format, "instruction", QUERY), prompt=QUERY)
        for category in categories:
            text = self.judge("faithfulness", category, QUERY, (CANDIDATE_A,))
            self._check_use("judge_faithfulness", text, **{"candidates[0]": CANDIDATE_A})
            for rubric in ("compliance", "deflection", "refusal"):
                text = self.judge(rubric, category, QUERY, (CANDIDATE_A,))
                self._check_use("judge_pointwise", text, **{"candidates[0]": CANDIDATE_A})
                text = self.judge(rubric, category, QUERY, (CANDIDATE_A, CANDIDATE_B))
                self._check_use("judge_pairwise", text, **{"candidates[0]": CANDIDATE_A, "candidates[1]": CANDIDATE_B})

    def _check_use(self, name: str, text: str, **expected: str) -> None:
        for variable, value in expected.items():
            if value not in text:
                raise ConfigError(f"templates={self._folder}: {name}: leaves out {{{{ {variable} }}}}; write it in")


def _resolve(folder: str) -> Path:
    for path in (to_path(folder), TEMPLATES / folder):
        if find(path, "*.txt"):
            return path
    raise ConfigError(f"templates={folder}: no .txt templates in there; see {TEMPLATES} for the names")
