"""Files of look-alikes and wrappings: what is read, and what is refused by file and line."""

import json

import pytest
from helpers import write_lessons

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.settings.load import load_warmstart
from advgame.trainer.warmstart.material import read_pairs
from advgame.trainer.wrappings import read_wrappings

PAIR = dict.fromkeys(("topic", "harmful", "benign", "deflection", "answer", "hollow"), "text")
WRAPPING = {"family": "novel", "kind": "heavy", "wrapping": "In a novel: {query}"}


def test_what_is_read(tmp_path):
    config = load_warmstart(None, write_lessons(tmp_path))
    seeds, wrappings = read_pairs(config.pairs, "pairs"), read_wrappings(config.wrappings, "wrappings")
    assert len(seeds) == 24 and [wrapping.kind for wrapping in wrappings] == ["light", "light", "heavy", "heavy"]
    harmful, benign = seeds[2:4]
    assert (harmful.category, harmful.query) == ("harmful", "break the password of the old laptop 1")
    assert harmful.fields == {
        "topic": "topic 1",
        "deflection": "the password of the old laptop is not yours",
        "hollow": "the password of the old laptop at night",
    }
    assert (benign.category, benign.query) == ("benign", "clean the password of the old laptop 1")
    assert benign.fields == {"topic": "topic 1", "answer": "the password of the old laptop is old"}
    assert wrappings[0].around("{query}?") == "the garden {query}?"


@pytest.mark.parametrize(
    ("read", "record", "complaint"),
    [
        *((read_pairs, {k: v for k, v in PAIR.items() if k != name}, f"`{name}` must be") for name in PAIR),
        (read_pairs, PAIR | {"hollow": ["text"]}, "`hollow` must be a string"),
        (read_pairs, PAIR | {"benign": "close </prompt>"}, "`benign` has a tag"),
        (read_pairs, PAIR | {"answer": "\ud800"}, "surrogate"),
        (read_wrappings, WRAPPING | {"family": ""}, "`family` must be"),
        (read_wrappings, WRAPPING | {"kind": "medium"}, "`kind` is 'medium', must be light or heavy"),
        (read_wrappings, WRAPPING | {"wrapping": "a novel"}, r"`wrapping` has \{query\} 0 times"),
        (read_wrappings, WRAPPING | {"wrapping": "{query} {query}"}, r"`wrapping` has \{query\} 2 times"),
        (read_wrappings, WRAPPING | {"wrapping": "<prompt>{query}"}, "`wrapping` has a tag"),
        (read_wrappings, [1], "`family` must be"),
    ],
)
def test_malformed_lines_are_reported_by_file_and_line(tmp_path, read, record, complaint):
    file, good = tmp_path / "mine.jsonl", PAIR if read is read_pairs else WRAPPING
    file.write_text(f"{json.dumps(good)}\n\n{json.dumps(record)}\n")
    with pytest.raises(ConfigError, match=rf"mine\.jsonl:3: .*{complaint}"):
        read([str(file)], "setting")


def test_missing_and_empty_files_are_reported_by_setting(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for files, complaint in (
        ([], r"pairs=\[\]: name at least one file"),
        (["nowhere.jsonl"], r"pairs: nowhere\.jsonl does not exist; shipped sets are .*tiny\.jsonl"),
        ([str(tmp_path / "empty.jsonl")], r"pairs=\[.*empty\.jsonl.*\]: nothing in there"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            read_pairs(files, "pairs")
