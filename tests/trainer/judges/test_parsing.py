"""Verdicts: read behind the judge's reasoning only, in time that grows with the answer's length. See also the golden
cases.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.judges.parsing import parse_pair, parse_score, parse_verdict

LENGTH = 1_000_000
"""Characters; at quadratic cost they would take hours."""


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("<think>it says NO, but</think>YES", True),
        ("<think>it says NO</think>", False),
        ("<think>a</think>NO<think>NO</think>YES", True),
        ("NO</think>YES", True),  # the chat template may have opened the reasoning
        ("NO</think>no verdict", False),
        ("<think>cut off in the middle of NO", False),
        ("YES<think>cut off in the middle of NO", False),
        ("<think>a</think></think>YES", True),
        ("YES", True),
    ],
)
def test_what_is_repeated_in_the_reasoning_counts_for_nothing(text, counts):
    def filled(yes: str, no: str) -> str:
        return text.replace("YES", yes).replace("NO", no)

    assert parse_verdict(filled("<answer>True</answer>", "<answer>False</answer>")) is (True if counts else None)
    assert parse_score(filled("<score>2</score>", "<score>10</score>")) == (2 if counts else None)
    yes, no = "<score_A>2</score_A><score_B>3</score_B>", "<score_A>10</score_A><score_B>0</score_B>"
    assert parse_pair(filled(yes, no)) == ((2, 3) if counts else (None, None))


@given(st.text(), st.floats(0, 10).map(lambda score: round(score, 1)))
def test_no_reasoning_changes_the_verdict(reasoning, score):
    assert parse_score(f"<think>{reasoning}</think><score>{score}</score>") == score


@pytest.mark.parametrize("piece", [" ", "1", "1 ", "/10", " /10 ", "<score>", "<score> ", "<score>1", "</think>", "<"])
@pytest.mark.timeout(60)
def test_long_answers_take_no_longer_than_their_length(piece):
    long = piece * (LENGTH // len(piece))
    for opened in ("", "<score>", "<score>1", "<score>1 /10"):
        assert parse_score(f"{opened}{long}x") is None
    assert parse_verdict(f"<answer>{long}x") is None
