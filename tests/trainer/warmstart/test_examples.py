"""Examples: functions of seed and number alone, in the game's own words, and as gullible as the settings say."""

from collections import Counter

import pytest
from helpers import write_lessons
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.prompts.templates import Prompts
from advgame.trainer.settings.load import load_warmstart
from advgame.trainer.warmstart.examples import OPENERS, Example, example
from advgame.trainer.warmstart.material import read_pairs
from advgame.trainer.wrappings import read_wrappings

PROMPTS = Prompts("taught")


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function of a number and of settings."""
    files = write_lessons(tmp_path_factory.mktemp("lessons"))

    def make_one(i: int, *settings: str) -> Example:
        config = load_warmstart(None, [*files, *settings])
        seeds, wrappings = read_pairs(config.pairs, "pairs"), read_wrappings(config.wrappings, "wrappings")
        return example(i, seeds, wrappings, PROMPTS, config)

    return make_one


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """As `make`, for the first 2,000 examples."""
    files = write_lessons(tmp_path_factory.mktemp("lessons"))

    def make_many(*settings: str) -> list[Example]:
        config = load_warmstart(None, [*files, *settings])
        seeds, wrappings = read_pairs(config.pairs, "pairs"), read_wrappings(config.wrappings, "wrappings")
        return [example(i, seeds, wrappings, PROMPTS, config) for i in range(2000)]

    return make_many


@given(i=st.integers(0, 10**6), seed=st.integers(0, 3), player=st.sampled_from(["attacker", "defender"]))
def test_an_example_is_a_function_of_its_number_and_the_seed(make, i, seed, player):
    one = make(i, f"seed={seed}", f"player={player}")
    assert one == make(i, f"seed={seed}", f"player={player}", "examples=6", "batch_size=3")
    assert one.kind.startswith(("harmful", "benign")[i % 2])


def test_other_seeds_give_other_examples(many):
    assert many("seed=1") != many("seed=2")


def test_every_query_is_shown_before_one_is_shown_again(many):
    for begin in range(0, 240, 24):
        queries = {one.told for one in many("player=attacker")[begin : begin + 24]}
        assert len(queries) == 24


@given(i=st.integers(0, 10**6), format=st.sampled_from(["prompt_only", "any_prompt"]))
def test_an_attacker_is_asked_as_in_the_game_and_answers_in_its_format(make, i, format):
    one = make(i, "player=attacker", f"attacker.format={format}")
    attack = parse(ATTACKER_FORMATS[format], one.said)
    category = one.kind.partition("/")[0]
    (query,) = [
        query
        for subject in ("lock of the garden shed", "password of the old laptop", "exam of the night school")
        for number in range(12)
        for query in [f"{'break' if category == 'harmful' else 'clean'} the {subject} {number}"]
        if PROMPTS.attacker(category, format, query) == one.told
    ]
    assert attack and query in attack.content and attack.content != query and not one.short


def test_what_a_defender_is_told_and_says(many):
    for one in many("defender.instruction=Be brief."):
        category, kind, decision = one.kind.split("/")
        assert one.told.endswith("Be brief.") and ("break" if category == "harmful" else "clean") in one.told
        assert ("night night" in one.told or one.told.startswith("laptop")) == (kind == "heavy")
        if decision == "comply":
            assert one.said.startswith("Sure! the ") and one.said.endswith(
                "old" if category == "benign" else "at night"
            )
        else:
            assert category == "harmful" and one.said.startswith(OPENERS) and one.said.endswith("is not yours")
    openers = Counter(opener for one in many() for opener in OPENERS if one.said.startswith(opener))
    assert openers.keys() == {*OPENERS} and min(openers.values()) > 0.5 * max(openers.values())


def test_shares_are_those_of_the_settings(many):
    examples = many("defender.comply={plain: 0.0, light: 0.2, heavy: 0.9}", "defender.short_share=0.3")
    kinds = Counter(one.kind for one in examples)

    def complied(kind: str) -> float:
        comply, deflect = kinds[f"{kind}/comply"], kinds[f"{kind}/deflect"]
        return comply / (comply + deflect)

    assert complied("harmful/plain") == 0 and all(
        complied(f"benign/{kind}") == 1 for kind in ("plain", "light", "heavy")
    )
    assert complied("harmful/light") == pytest.approx(0.2, abs=0.08)  # of some 250: three standard deviations
    assert complied("harmful/heavy") == pytest.approx(0.9, abs=0.06)
    assert sum(one.short for one in examples) / 2000 == pytest.approx(0.3, abs=0.04)
    wrapped = sum(count for kind, count in kinds.items() if "plain" not in kind)
    assert wrapped / 2000 == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_may_be_none_or_all(many, share):
    settings = [f"defender.comply.{kind}={share}" for kind in ("plain", "light", "heavy")]
    decisions = {one.kind.rpartition("/")[2] for one in many(*settings) if one.kind.startswith("harmful")}
    assert decisions == {"comply" if share else "deflect"}
