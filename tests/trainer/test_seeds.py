"""Seeds: reading, and dealing them out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.records import Seed
from advgame.trainer.seeds import deal, limited, read_seeds


def test_the_shipped_set():
    training = read_seeds(["harmful.jsonl", "benign.jsonl"])
    held_out = read_seeds(["harmful-held-out.jsonl", "benign-held-out.jsonl"])
    for seeds, count in ((training, 130), (held_out, 20)):
        assert [sum(seed.category == c for seed in seeds) for c in ("harmful", "benign")] == [count, count]
    assert len({seed.query.lower() for seed in training + held_out}) == 300


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[1]", "`prompt`"),
        ('{"category": "benign"}', "`prompt`"),
        ('{"prompt": "  ", "category": "benign"}', "`prompt`"),
        ('{"prompt": "hi", "category": "evil"}', "'evil'"),
        ('{"prompt": "hi"}', "`category`"),
        ('{"prompt": "hi", "category": "' + "x" * 1000 + '"}', "'x{50,60}, must be"),
        ("[" * 100_000, "not valid JSON"),
        ('{"prompt": "hi", "category": "benign", "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "not valid JSON"),
        ('{"prompt": "hi", "category": "benign", "more": ' + "9" * 10_000 + "}", "not valid JSON"),
        ('{"prompt": "hi", "category": "benign", "more": NaN}', "NaN is not a number"),
        ('{"prompt": "hi", "category": "benign", "more": -Infinity}', "-Infinity is not a number"),
        ('{"prompt": "hi \\ud800", "category": "benign"}', "surrogate"),
        ('{"prompt": "hi", "category": "benign", "seed": "\\udfff"}', "surrogate"),
    ],
)
def test_malformed_lines_are_reported_by_file_and_line(tmp_path, line, complaint):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "ok", "category": "benign"}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match=rf"mine\.jsonl:3: .*{complaint}") as caught:
        read_seeds([str(file)])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_line_of_look_alikes_is_two_seeds(tmp_path):
    file = tmp_path / "pairs.jsonl"
    pair = {"topic": "locks", "harmful": "break it", "benign": "clean it", "answer": "with a cloth"}
    file.write_text(json.dumps(pair) + "\n" + json.dumps(pair | {"topic": None, "benign": "oil it"}) + "\n")
    topic = {"topic": "locks"}
    assert read_seeds([str(file)]) == [
        Seed("break it", "harmful", topic),
        Seed("clean it", "benign", topic),
        Seed("break it", "harmful"),
        Seed("oil it", "benign"),
    ]
    file.write_text('\n{"harmful": "break it", "benign": " "}')
    with pytest.raises(ConfigError, match=r"pairs\.jsonl:2: `benign` must be a string"):
        read_seeds([str(file)])


def test_extra_fields_are_kept_and_blank_lines_are_fine(tmp_path):
    file = tmp_path / "mine.jsonl"
    line = {"prompt": "ünï", "category": "harmful", "language": "de", "seed": None}
    file.write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    assert read_seeds([str(file)]) == [Seed("ünï", "harmful", {"language": "de"})]


def test_files_of_other_editors_are_read(tmp_path):
    """With a byte-order mark, with Windows' line ends, and with marks in a string that other readers end lines at."""
    file = tmp_path / "mine.jsonl"
    prompts = ["one\u2028two", "three\x85four", "five"]
    lines = [json.dumps({"prompt": prompt, "category": "benign"}, ensure_ascii=False) for prompt in prompts]
    file.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert [seed.query for seed in read_seeds([str(file)])] == prompts


def test_a_file_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"prompt": "café", "category": "benign"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.jsonl: not UTF-8 .* at byte 15\); save it as UTF-8"):
        read_seeds([str(file)])


def test_a_missing_or_empty_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.jsonl.*shipped"):
        read_seeds(["nowhere.jsonl"])
    for impossible in ("x" * 300, "x/" * 3000, "a\0b"):
        with pytest.raises(ConfigError, match=r"does not exist; shipped"):
            read_seeds([impossible])
    with pytest.raises(ConfigError, match=r"seeds\.files=\[\]: name at least one file"):
        read_seeds([])
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no seeds"):
        read_seeds([str(tmp_path / "empty.jsonl")])


@given(
    harmful=st.integers(0, 7),
    benign=st.integers(0, 7),
    batch_size=st.integers(1, 9),
    batches=st.integers(1, 12),
    seed=st.integers(0, 5),
)
def test_deals_in_turn_and_reshuffles_on_every_pass(harmful, benign, batch_size, batches, seed):
    seeds = [Seed(f"h{i}", "harmful") for i in range(harmful)] + [Seed(f"b{i}", "benign") for i in range(benign)]
    if not seeds:
        return
    dealt = [s for batch in range(batches) for s in deal(seeds, batch, batch_size, seed)]
    assert len(dealt) == batches * batch_size
    if harmful and benign:
        assert [s.category for s in dealt] == (["harmful", "benign"] * len(dealt))[: len(dealt)]
    for category, count in (("harmful", harmful), ("benign", benign)):
        of_category = [s.query for s in dealt if s.category == category]
        for begin in range(0, len(of_category), max(count, 1)):  # no seed twice before all were dealt
            one_pass = of_category[begin : begin + count]
            assert len(set(one_pass)) == len(one_pass)


@given(share=st.floats(0, 1), batch_size=st.integers(1, 9), batches=st.integers(1, 12))
def test_deals_a_share_of_benign_seeds_evenly_and_each_as_often_as_any_other(share, batch_size, batches):
    seeds = [Seed(f"{c}{i}", c) for c in ("harmful", "benign") for i in range(3)]
    dealt = [s for batch in range(batches) for s in deal(seeds, batch, batch_size, 0, share)]
    for end in range(len(dealt) + 1):
        benign = sum(s.category == "benign" for s in dealt[:end])
        assert benign == pytest.approx(end * share, abs=1)
    for category in ("harmful", "benign"):
        counts = [sum(s is seed for s in dealt) for seed in seeds if seed.category == category]
        assert max(counts) - min(counts) <= 1


@given(count=st.integers(0, 40), limit=st.none() | st.integers(1, 50))
def test_a_limit_leaves_an_even_part_in_order(count, limit):
    left = limited(list(range(count)), limit)
    assert len(left) == min(count, limit or count) and left == sorted(set(left))
    if limit and limit < count:
        part = count / limit
        assert all(i * part - 1 < item < (i + 1) * part for i, item in enumerate(left))


def test_a_limit_does_not_follow_the_order_of_a_file():
    assert len({item % 4 for item in limited(list(range(256)), 64)}) == 4


def test_dealing_depends_on_the_seed_alone():
    seeds = read_seeds(["harmful.jsonl", "benign.jsonl"])
    assert deal(seeds, 3, 8, seed=1) == deal(seeds, 3, 8, seed=1)
    assert deal(seeds, 3, 8, seed=1) != deal(seeds, 3, 8, seed=2)
