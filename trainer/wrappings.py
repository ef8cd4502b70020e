"""Wrappings: texts around a query, read from JSONL."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.records import Seed
from advgame.trainer.seeds import CATEGORIES, read_each, read_text

Kind = Literal["plain", "light", "heavy"]

QUERY = "{query}"
"""Where a wrapping takes the query."""


@dataclass(frozen=True)
class Wrapping:
    """A text with `{query}` in it, once."""

    family: str
    kind: Kind
    text: str

    def around(self, query: str) -> str:
        return self.text.replace(QUERY, query)


PLAIN = Wrapping("plain", "plain", QUERY)


def read_wrappings(files: list[str], setting: str) -> list[Wrapping]:
    """Raises ConfigError that names the setting, or the file and the line of what is wrong."""
    return read_each(files, setting, _wrapping)


def wrapped(seeds: list[Seed], wrappings: list[Wrapping]) -> Iterator[tuple[Seed, str]]:
    """Each seed, and its query in one of the wrappings: harmful seeds take them in turn, and so do benign ones."""
    turns = {category: cycle(wrappings) for category in CATEGORIES}
    return ((seed, next(turns[seed.category]).around(seed.query)) for seed in seeds)


def check_writable(text: str, name: str, place: str) -> None:
    """Raises ConfigError for a text that an attacker cannot write, in the game's format."""
    if parse(ATTACKER_FORMATS["prompt_only"], f"<prompt>{text}</prompt>") is None:
        raise ConfigError(f"{place}: `{name}` has a tag <prompt> or </prompt>, by which attacks are read; remove it")


def _wrapping(record: dict[str, Any], place: str) -> Wrapping:
    family, kind, text = read_text(record, "family", place), record.get("kind"), read_text(record, "wrapping", place)
    if kind not in ("light", "heavy"):
        raise ConfigError(f"{place}: `kind` is {kind!r:.60}, must be light or heavy")
    if (times := text.count(QUERY)) != 1:
        raise ConfigError(f"{place}: `wrapping` has {QUERY} {times} times; it takes the query once")
    check_writable(text, "wrapping", place)
    return Wrapping(family, kind, text)
