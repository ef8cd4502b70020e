"""The red-team report: nothing that is put into it is markup."""

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from advgame.trainer.base.text import printable
from advgame.trainer.report.rendering import fenced, inline


@given(st.text(alphabet=st.one_of(st.sampled_from("`~\n <>#|\\\t\r\u2028\x85"), st.characters())))
def test_a_fence_holds_any_text(text):
    (token,) = MarkdownIt("commonmark").parse(fenced(text))
    assert token.type == "fence" and token.content == f"{printable(text)}\n"


@given(st.text(alphabet=st.one_of(st.sampled_from("`*_[]()<>#|\\&;!\n"), st.characters())))
def test_no_inline_text_is_markup(text):
    tokens = MarkdownIt("commonmark").enable("table").parse(f"x {inline(text)}")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children} <= {"text", "text_special"}
    said = "".join(child.content for child in tokens[1].children)
    assert said.split() == ["x", *printable(text).split()]
