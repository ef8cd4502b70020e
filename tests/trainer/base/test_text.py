"""Text that is safe to show."""

from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.text import one_line, printable


def test_text_cannot_control_a_terminal():
    hostile = "\x1b[2J\x1b]0;owned\x07 a\u202eb \r end"
    assert printable(hostile) == "\\x1b[2J\\x1b]0;owned\\x07 a\\u202eb \\r end"


def test_words_of_every_script_stay_as_they_are():
    words = "می\u200cخواهم क्\u200dष\u3000日本\u00a0! a\tb"
    assert printable(words) == words


@given(st.text())
def test_any_text_becomes_printable_and_one_line(text):
    shown = printable(text)
    assert "\x1b" not in shown and printable(shown) == shown
    assert len(one_line(text).splitlines()) <= 1
