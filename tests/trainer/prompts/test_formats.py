"""Output formats: what parses comes back whole; the exact edge cases are in tests/golden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.prompts.formats import ATTACKER_FORMATS, DEFENDER_FORMATS, parse


def taken_apart(pattern, text):
    parsed = parse(pattern, text)
    return (parsed.think, parsed.content)


plain = st.text(alphabet=st.characters(exclude_characters="<>", exclude_categories=["Cs"])).map(str.strip)


@given(think=plain, content=plain)
def test_well_formed_outputs_come_back(think, content):
    assert taken_apart(ATTACKER_FORMATS["prompt_only"], f" <prompt> {content}\n</prompt>\n") == ("", content)
    assert taken_apart(ATTACKER_FORMATS["any_prompt"], f"{think}<prompt>{content}</prompt>") == (think, content)
    assert taken_apart(ATTACKER_FORMATS["think_prompt"], f"<think>{think}</think>\n<prompt>{content}</prompt>") == (
        think,
        content,
    )
    assert taken_apart(DEFENDER_FORMATS["any"], f" {content} ") == ("", content)
    assert taken_apart(DEFENDER_FORMATS["think_any"], f"<think>{think}</think> {content}") == (think, content)
    assert taken_apart(DEFENDER_FORMATS["think_answer"], f"<think>{think}</think><answer>{content}</answer>") == (
        think,
        content,
    )


@given(
    st.lists(st.sampled_from(["<", ">", "/", "think", "prompt", "answer", " ", "a"]), max_size=40).map("".join),
    st.sampled_from([*ATTACKER_FORMATS.values(), *DEFENDER_FORMATS.values()]),
)
def test_what_parses_holds_no_tag_of_its_own(text, pattern):
    parsed = parse(pattern, text)
    if parsed and pattern in ATTACKER_FORMATS.values():
        assert "<prompt>" not in parsed.content and "</prompt>" not in parsed.content


@pytest.mark.parametrize("pattern", [*ATTACKER_FORMATS.values(), *DEFENDER_FORMATS.values()])
@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "<",
        "</",
        "\n",
        "<prompt>",
        "<think>",
        "<think></think>",
        "</prompt",
        "prompt>",
        "a<prompt>b</prompt>c",
        "</think> ",
    ],
)
@pytest.mark.timeout(60)
def test_hostile_repetition_does_not_hang(pattern, piece):
    """A pattern that backtracks over every split of so many characters would take far longer than the limit."""
    long = piece * (200_000 // len(piece))
    for opened in ("", "x", "<think>", "<think>a</think>", "<think>a</think><prompt>", "<prompt>"):
        parse(pattern, f"{opened}{long}x")
