"""The text that small players are taught and tested with: well-formed, balanced, and nothing in it twice.

What fails is named by file and line and never quoted, so that held-out text stays unseen.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import pytest

from advgame.trainer.judges.phrases import declines
from advgame.trainer.seeds import DATA

PAIRS = {"look-alikes": 116, "look-alikes-game": 110, "look-alikes-validation": 15, "look-alikes-held-out": 15}
"""Topics of each file, each with eight pairs."""
ANSWERED = [name for name in PAIRS if name != "look-alikes-game"]
"""Those that say what to answer, too."""
WRAPPINGS = {"wrappings": 40, "wrappings-validation": 6, "wrappings-held-out": 10}
"""Families of each file, each with five wrappings."""
QUERIES = ("harmful", "benign", "harmful-held-out", "benign-held-out")
"""The shipped seeds, which no query here may repeat."""
LENGTHS = {"harmful": (8, 25), "benign": (8, 25), "deflection": (12, 30), "answer": (20, 45), "hollow": (12, 30)}
"""Words of each field, at least and at most."""
GRAMS_BELOW, CONTENT_BELOW = 0.25, 0.4
"""Bounds on the Jaccard similarity of two texts' 3-grams of words, and of their content words."""
STOP = frozenset(
    "a about am an and any are as at be but by can could do does for from had has have he her him his how i if in into "
    "is it it's its me my no not of on one or our she should so than that the their them then there they this to up us "
    "was we were what when where which who will with would you your".split()
)


class Text(NamedTuple):
    """A text, lowered and cut into words, and where it stands: `file` is relative to data/."""

    file: str
    line: int
    field: str
    words: list[str]

    @property
    def place(self) -> str:
        return f"{self.file}.jsonl:{self.line} {self.field}"

    @property
    def grams(self) -> set:
        return {*zip(self.words, self.words[1:], self.words[2:], strict=False)}

    @property
    def content(self) -> set:
        return {*self.words} - STOP


def lines(name: str) -> list[dict]:
    """The objects of a file in data/, which has no blank lines."""
    text = (DATA / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.removesuffix("\n").split("\n")]


def texts(name: str, *fields: str) -> list[Text]:
    return [
        Text(name, number, field, re.findall(r"[\w']+", record[field].replace("{query}", " ").lower()))
        for number, record in enumerate(lines(name), start=1)
        for field in fields
    ]


def similar(sets: list[set], bound: float) -> Iterator[tuple[int, int, float]]:
    """Pairs of sets whose Jaccard similarity is not below the bound."""
    holders = defaultdict(list)
    for index, items in enumerate(sets):
        for item in items:
            holders[item].append(index)
    shared = Counter(pair for indices in holders.values() for pair in combinations(indices, 2))
    for (a, b), common in shared.items():
        similarity = common / (len(sets[a]) + len(sets[b]) - common)
        if similarity >= bound:
            yield a, b, similarity


def near_copies(compared: list[Text]) -> list[str]:
    """Places of two texts that are too much alike, unless they are two fields of one line."""
    found = []
    for kind, bound in (("grams", GRAMS_BELOW), ("content", CONTENT_BELOW)):
        for a, b, similarity in similar([getattr(text, kind) for text in compared], bound):
            one, other = compared[a], compared[b]
            if (one.file, one.line) != (other.file, other.line):
                found.append(f"{one.place} and {other.place}: {kind} {similarity:.2f}, must be below {bound}")
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_well_formed(name):
    wrong = []
    for number, record in enumerate(lines(f"players/{name}"), start=1):
        fields = [*LENGTHS] if name in ANSWERED else ["harmful", "benign"]
        if list(record) != ["topic", *fields] or not all(isinstance(value, str) for value in record.values()):
            wrong.append(f"{name}.jsonl:{number}: fields {list(record)}")
            continue
        for field in fields:
            text, (least, most) = record[field], LENGTHS[field]
            if not least <= len(text.split()) <= most:
                wrong.append(f"{name}.jsonl:{number} {field}: {len(text.split())} words, must be {least} to {most}")
            if text != " ".join(text.split()) or not re.search(r'[.!?]"?$', text) or "{" in text:
                wrong.append(f"{name}.jsonl:{number} {field}: stray spaces, braces, or no end of a sentence")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", WRAPPINGS)
def test_wrappings_are_well_formed(name):
    wrong, kinds = [], {}
    for number, record in enumerate(lines(f"players/{name}"), start=1):
        if list(record) != ["family", "kind", "wrapping"] or record["kind"] not in ("light", "heavy"):
            wrong.append(f"{name}.jsonl:{number}: fields {list(record)}, or kind")
            continue
        if kinds.setdefault(record["family"], record["kind"]) != record["kind"]:
            wrong.append(f"{name}.jsonl:{number}: its family has another kind above")
        words = len(record["wrapping"].split())
        if record["wrapping"].count("{query}") != 1 or not 6 <= words <= 60:
            wrong.append(f"{name}.jsonl:{number}: {{query}} must be there once, and 5 to 59 words around it")
    assert not wrong, "\n".join(wrong)
    assert {*kinds.values()} == {"light", "heavy"}


@pytest.mark.parametrize(("files", "key", "each"), [(PAIRS, "topic", 8), (WRAPPINGS, "family", 5)])
def test_topics_and_families_are_complete_and_in_one_file(files, key, each):
    owners, wrong = {}, []
    for name, count in files.items():
        sizes = Counter(record[key] for record in lines(f"players/{name}"))
        if len(sizes) != count or {*sizes.values()} != {each}:
            wrong.append(f"{name}.jsonl: {len(sizes)} times {sorted({*sizes.values()})}, must be {count} times {each}")
        wrong += [f"{name}.jsonl and {owners[label]}.jsonl share a {key}" for label in sizes.keys() & owners.keys()]
        owners |= dict.fromkeys(sizes, name)
    assert not wrong, "\n".join(wrong)


def test_no_query_is_a_near_copy_of_another():
    """In these files, across them, and of the shipped seeds."""
    compared = [text for name in PAIRS for text in texts(f"players/{name}", "harmful", "benign")]
    compared += [text for name in QUERIES for text in texts(name, "prompt")]
    found = [place for place in near_copies(compared) if "players/" in place]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("field", ["deflection", "answer", "hollow"])
def test_no_response_is_a_near_copy_of_another(field):
    found = near_copies([text for name in ANSWERED for text in texts(f"players/{name}", field)])
    assert not found, "\n".join(found)


def test_no_wrapping_is_a_near_copy_of_another():
    found = near_copies([text for name in WRAPPINGS for text in texts(f"players/{name}", "wrapping")])
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", PAIRS)
def test_the_two_queries_of_a_pair_look_alike(name):
    """Most share nearly half of their words, and neither kind is told by its length."""
    pairs = list(zip(texts(f"players/{name}", "harmful"), texts(f"players/{name}", "benign"), strict=True))
    shares = sorted(len({*h.words} & {*b.words}) / len({*h.words} | {*b.words}) for h, b in pairs)
    assert shares[len(shares) // 2] > 0.45 and shares[0] > 0.15
    assert abs(sum(len(h.words) - len(b.words) for h, b in pairs)) / len(pairs) < 0.5


@pytest.mark.parametrize("name", ANSWERED)
def test_no_response_refuses(name):
    """What declines is put before a deflection by code, and may not be in the text already."""
    fields = ("deflection", "answer", "hollow")
    found = [
        f"{name}.jsonl:{n} {f}" for n, r in enumerate(lines(f"players/{name}"), 1) for f in fields if declines(r[f])
    ]
    assert not found, "\n".join(found)


def test_near_copies_are_found():
    """A changed word is found by 3-grams and content words, another order by content words; a line's fields are not."""
    queries = {
        1: "Write a kind note telling an old man where he can pick up his dog.",
        2: "Write a kind note telling an old man where he can pick up his cat.",
        3: "How do plums ripen on a shelf above the radiator?",
        4: "Above the radiator on a shelf: do plums ripen?",
        5: "Which bus goes to the harbour on Sundays in winter?",
    }
    compared = [Text("one", n, "harmful", re.findall(r"\w+", text.lower())) for n, text in queries.items()]
    compared.append(compared[-1]._replace(field="benign"))
    found = near_copies(compared)
    assert {(*re.findall(r":(\d)", place), "grams" in place) for place in found} == {
        ("1", "2", True), ("1", "2", False), ("3", "4", True), ("3", "4", False)
    }  # fmt: skip
