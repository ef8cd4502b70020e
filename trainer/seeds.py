"""Seeds: read from JSONL, and dealt out, harmful and benign in turn.

A file of seeds has one a line. A file of look-alikes, from which players are taught (see warmstart/), has two a line.
"""

import json
import math
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.paths import is_file, to_path
from advgame.trainer.base.randomness import key_to_seed
from advgame.trainer.records import Seed

DATA = Path(__file__).parent / "data"
CATEGORIES = ("harmful", "benign")
T = TypeVar("T")


def read_seeds(files: list[str], setting: str = "seeds.files") -> list[Seed]:
    """Every seed of the files that a setting names, in order.

    Raises ConfigError that names the setting, or the file and line of the mistake.
    """
    if not files:
        raise ConfigError(f"{setting}=[]: name at least one file; shipped sets are {_shipped()}")
    seeds = [seed for name in files for seed in _read_file(resolve(name, setting))]
    if not seeds:
        raise ConfigError(f"{setting}={files}: no seeds in there; shipped sets are {_shipped()}")
    return seeds


def read_attacks(files: list[str], setting: str) -> list[tuple[Seed, str]]:
    """Attacks from files, as (seed, attack): `prompt` is the attack and `seed` its query, by default the attack."""
    lines = read_seeds(files, setting)
    return [(Seed(line.fields.get("seed", line.query), line.category, line.fields), line.query) for line in lines]


def deal(seeds: list[Seed], batch: int, batch_size: int, seed: int, benign_share: float = 0.5) -> list[Seed]:
    """The seeds of one batch: harmful and benign in turn, each category reshuffled on every pass through it.

    A pure function of the batch's number, so a run can resume from any batch and save nothing for it.

    benign_share: benign ones of all that are dealt, evenly spread; seeds of one category alone are dealt as they are.
    """
    pools = [[s for s in seeds if s.category == category] for category in CATEGORIES]
    share = dealt_share(seeds, benign_share)
    dealt = []
    for position in range(batch * batch_size, (batch + 1) * batch_size):
        benign = math.floor(position * share)  # so many came before
        turn = math.floor((position + 1) * share) - benign
        epoch, index = divmod(benign if turn else position - benign, len(pools[turn]))
        dealt.append(pools[turn][_permutation(len(pools[turn]), epoch, turn, seed)[index]])
    return dealt


def dealt_share(seeds: list[Seed], benign_share: float) -> float:
    """Of benign ones among the seeds that `deal` gives out."""
    categories = {seed.category for seed in seeds}
    return benign_share if len(categories) > 1 else float("benign" in categories)


def limited(items: list[T], limit: int | None) -> list[T]:
    """At most `limit` items, spread evenly: one drawn from each stretch, so that a regular order cannot bias them."""
    if limit is None or limit >= len(items):
        return items
    draw = random.Random(0).randrange
    return [items[draw(i * len(items) // limit, (i + 1) * len(items) // limit)] for i in range(limit)]


def resolve(name: str, setting: str) -> Path:
    """The file of a path, or of the name of a shipped set. Raises ConfigError that names the setting."""
    for path in (to_path(name), DATA / name):
        if is_file(path):
            return path
    raise ConfigError(f"{setting}: {name} does not exist; shipped sets are {_shipped()}")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSONL file, each with its place, `file:line`, for errors; blank lines are left out.

    All texts in them are characters that can be written. Raises ConfigError that names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would also cut at marks inside strings
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            record = json.loads(line, parse_constant=_refuse)
            str(record)  # what fails here would fail later
        except (ValueError, RecursionError) as error:  # also thousands of digits, and thousands of lists in lists
            raise ConfigError(f"{place}: not valid JSON ({getattr(error, 'msg', error)})") from error
        record = record if isinstance(record, dict) else {}
        if any("\ud800" <= c <= "\udfff" for part in (*record, *record.values()) for c in str(part)):
            raise ConfigError(f"{place}: half a surrogate pair (\\ud800 to \\udfff) is not a character")
        yield place, record


def read_each(files: list[str], setting: str, make: Callable[[dict[str, Any], str], T]) -> list[T]:
    """make(object, place) of each line of the files that a setting names.

    Raises ConfigError that names the setting, or the file and the line of what is wrong.
    """
    if not files:
        raise ConfigError(f"{setting}=[]: name at least one file")
    found = [make(record, place) for name in files for place, record in read_lines(resolve(name, setting))]
    if not found:
        raise ConfigError(f"{setting}={files}: nothing in there; name a file that has lines")
    return found


def read_text(record: dict[str, Any], name: str, place: str) -> str:
    """A field of a line. Raises ConfigError if it is not there, or not a string with something in it."""
    text = record.get(name)
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{place}: `{name}` must be a string that is not empty")
    return text


def _read_file(path: Path) -> list[Seed]:
    return [seed for place, record in read_lines(path) for seed in _seeds_of(record, place)]


def _seeds_of(record: dict[str, Any], place: str) -> list[Seed]:
    """The seed of a line, or the two of a line of look-alikes."""
    if "prompt" not in record and {"harmful", "benign"} & record.keys():
        topic = {"topic": str(record["topic"])} if record.get("topic") is not None else {}
        return [
            Seed(read_text(record, "harmful", place), "harmful", topic),
            Seed(read_text(record, "benign", place), "benign", topic),
        ]
    prompt, category = read_text(record, "prompt", place), record.get("category")
    if category not in CATEGORIES:
        raise ConfigError(f"{place}: `category` is {category!r:.60}, must be harmful or benign")
    fields = {k: str(v) for k, v in record.items() if k not in ("prompt", "category") and v is not None}
    return [Seed(prompt, category, fields)]


@lru_cache(maxsize=8)
def _permutation(size: int, epoch: int, turn: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(key_to_seed(seed, "seeds", turn, epoch))
    return torch.randperm(size, generator=generator).tolist()


def _shipped() -> str:
    return ", ".join(sorted(str(path.relative_to(DATA)) for path in DATA.rglob("*.jsonl")))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")
