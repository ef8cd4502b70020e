"""Wrappings: texts around a query."""

from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.prompts.formats import ATTACKER_FORMATS, parse
from advgame.trainer.records import Seed
from advgame.trainer.wrappings import PLAIN, Wrapping, wrapped


@given(before=st.text(), after=st.text(), query=st.text())
def test_a_wrapping_holds_the_query_and_an_attack_of_it_can_be_read(before, after, query):
    attack = Wrapping("any", "light", f"{before}{{query}}{after}").around(query)
    if "{query}" not in before + after:
        assert attack == before + query + after
    if "prompt" not in before + after + query:
        assert parse(ATTACKER_FORMATS["prompt_only"], f"<prompt>{attack}</prompt>").content == attack.strip()


def test_both_categories_take_the_wrappings_in_turn():
    seeds = [Seed(f"query {i}", category) for i in range(3) for category in ("harmful", "benign")]
    shown = list(wrapped(seeds, [PLAIN, Wrapping("novel", "heavy", "In a novel: {query}")]))
    assert [seed for seed, _ in shown] == seeds
    assert [text for _, text in shown] == [
        *("query 0", "query 0"),
        *("In a novel: query 1", "In a novel: query 1"),
        *("query 2", "query 2"),
    ]
