"""What players are taught from: files of look-alikes and of wrappings.

Look-alikes are a harmful and a benign query that read alike, with what may be said to each. A wrapping is a text around
a query.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.records import Category, Seed
from advgame.trainer.seeds import read_lines, read_text, resolve

T = TypeVar("T")

Kind = Literal["plain", "light", "heavy"]

QUERY = "{query}"
"""Where a wrapping takes the query."""
SAID: dict[Category, tuple[str, ...]] = {"harmful": ("deflection", "hollow"), "benign": ("answer",)}
"""What a defender may be taught to say to a query; `hollow` sounds compliant, and has no content."""


@dataclass(frozen=True)
class Wrapping:
    """A text with `{query}` in it, once."""

    family: str
    kind: Kind
    text: str

    def around(self, query: str) -> str:
        return self.text.replace(QUERY, query)


PLAIN = Wrapping("plain", "plain", QUERY)


def read_pairs(files: list[str], setting: str) -> list[Seed]:
    """The harmful and the benign seed of each line; their fields are their topic, and what may be said to them.

    Raises ConfigError that names the setting, or the file and the line of what is wrong.
    """
    return [seed for pair in _read(files, setting, _look_alikes) for seed in pair]


def read_wrappings(files: list[str], setting: str) -> list[Wrapping]:
    """Raises ConfigError that names the setting, or the file and the line of what is wrong."""
    return _read(files, setting, _wrapping)


def _read(files: list[str], setting: str, make: Callable[[dict[str, Any], str], T]) -> list[T]:
    if not files:
        raise ConfigError(f"{setting}=[]: name at least one file")
    found = [make(record, place) for name in files for place, record in read_lines(resolve(name, setting))]
    if not found:
        raise ConfigError(f"{setting}={files}: nothing in there; name a file that has lines")
    return found


def _look_alikes(record: dict[str, Any], place: str) -> tuple[Seed, Seed]:
    topic = {"topic": read_text(record, "topic", place)}

    def seed(category: Category) -> Seed:
        query = read_text(record, category, place)
        _check_writable(query, category, place)
        return Seed(query, category, topic | {name: read_text(record, name, place) for name in SAID[category]})

    return seed("harmful"), seed("benign")


def _wrapping(record: dict[str, Any], place: str) -> Wrapping:
    family, kind, text = read_text(record, "family", place), record.get("kind"), read_text(record, "wrapping", place)
    if kind not in ("light", "heavy"):
        raise ConfigError(f"{place}: `kind` is {kind!r:.60}, must be light or heavy")
    if (times := text.count(QUERY)) != 1:
        raise ConfigError(f"{place}: `wrapping` has {QUERY} {times} times; it takes the query once")
    _check_writable(text, "wrapping", place)
    return Wrapping(family, kind, text)


def _check_writable(text: str, name: str, place: str) -> None:
    """Raises ConfigError for a text that an attacker cannot write, in the game's format."""
    if parse(ATTACKER_FORMATS["prompt_only"], f"<prompt>{text}</prompt>") is None:
        raise ConfigError(f"{place}: `{name}` has a tag <prompt> or </prompt>, by which attacks are read; remove it")
