"""Look-alikes, from which players are taught: a harmful and a benign query that read alike, and what may be said."""

from typing import Any

from advgame.trainer.records import Category, Seed
from advgame.trainer.seeds import read_each, read_text
from advgame.trainer.wrappings import check_writable

SAID: dict[Category, tuple[str, ...]] = {"harmful": ("deflection", "hollow"), "benign": ("answer",)}
"""What a defender may be taught to say to a query; `hollow` sounds compliant, and has no content."""


def read_pairs(files: list[str], setting: str) -> list[Seed]:
    """The harmful and the benign seed of each line; their fields are their topic, and what may be said to them.

    Raises ConfigError that names the setting, or the file and the line of what is wrong.
    """
    return [seed for pair in read_each(files, setting, _look_alikes) for seed in pair]


def _look_alikes(record: dict[str, Any], place: str) -> tuple[Seed, Seed]:
    topic = {"topic": read_text(record, "topic", place)}

    def seed(category: Category) -> Seed:
        query = read_text(record, category, place)
        check_writable(query, category, place)
        return Seed(query, category, topic | {name: read_text(record, name, place) for name in SAID[category]})

    return seed("harmful"), seed("benign")
