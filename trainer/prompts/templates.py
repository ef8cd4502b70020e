"""Everything that is said to a model: templates in readable files, and their way into tokens."""

import difflib
import html
import itertools
from pathlib import Path

import jinja2
from transformers import PreTrainedTokenizerBase

from advgame.trainer.config import ConfigError
from advgame.trainer.formats import ATTACKER_FORMATS, DEFENDER_FORMATS

TEMPLATES = Path(__file__).parent / "templates"


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
            self._check()

    def attacker(self, category: str, format: str, query: str) -> str:
        return self._render(f"attacker_{category}", format=f"attacker_format_{format}.txt", query=query)

    def defender(self, format: str, instruction: str, prompt: str) -> str:
        return self._render("defender", format=f"defender_format_{format}.txt", instruction=instruction, prompt=prompt)

    def judge(self, rubric: str, category: str, query: str, candidates: tuple[str, ...]) -> str:
        """Every text that a model or a user wrote is escaped, so that none can close its tag or forge a score."""
        form = rubric if rubric == "faithfulness" else "pairwise" if len(candidates) == 2 else "pointwise"
        return self._render(
            f"judge_{form}",
            category=category,
            rubric=f"rubric_{rubric}.txt",
            query=html.escape(query, quote=False),
            candidates=[html.escape(candidate, quote=False) for candidate in candidates],
        )

    def _render(self, name: str, **values) -> str:
        try:
            return self._environment.get_template(f"{name}.txt").render(**values).strip()
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            where = f"{error.name}, line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else name
            raise ConfigError(f"templates={self._folder}: {where}: {error}") from error

    def _check(self) -> None:
        names = {path.name for path in TEMPLATES.glob("*.txt")}
        for path in sorted(_resolve(self._folder).glob("*.txt")):
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


def chat_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokens of one user turn and the opening of the assistant's, in the tokenizer's chat template.

    A special token that is spelt out in the text is broken by a zero-width space: nobody who only writes text
    can end the turn or open another.
    """
    for token in {*tokenizer.all_special_tokens, *_control_tokens(tokenizer)}:
        text = text.replace(token, f"{token[0]}\u200b{token[1:]}")
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)


def _resolve(folder: str) -> Path:
    for path in (Path(folder), TEMPLATES / folder):
        if any(path.glob("*.txt")):
            return path
    raise ConfigError(f"templates={folder}: no .txt templates in there; see {TEMPLATES} for the names")


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
