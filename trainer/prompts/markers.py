"""Text that reads like a control token or a role, broken so that it is read as text."""

import re
from collections.abc import Iterable

BREAK = "\u200b"
"""A zero-width space."""

KNOWN = re.compile(
    r"[<＜](?=[|｜][^<>＜＞\s]{0,64}[|｜][>＞]|/?(?:s|bos|eos|pad|unk)[>＞]|(?:start|end)_of_turn[>＞]|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)
"""The first character of a marker in the templates of widespread models, with its look-alikes."""

BRACKETED = re.compile(r"[<\[{|]+[^\s<>\[\]{}|]+[>\]}|]+")
MARKED = re.compile(r"(?=.*\w)(?=.*[^\w\s])")


def break_known(text: str) -> str:
    """For a server, whose tokenizer nobody here knows: breaks the markers of the families that are widespread."""
    return KNOWN.sub(rf"\g<0>{BREAK}", text)


def break_up(text: str, markers: Iterable[str], mark: str = BREAK) -> str:
    """Puts `mark` behind the first character of every marker; a marker of one character is replaced by it."""
    for marker in sorted(markers, key=len, reverse=True):
        if len(marker) == 1:
            text = text.replace(marker, mark)
        else:
            text = re.sub(rf"(?={re.escape(marker)}).", rf"\g<0>{mark}", text, flags=re.DOTALL)
    return text


def written_roles(spoken: Iterable[str]) -> set[str]:
    """The roles that a template writes as plain text, out of what it says between contents and control tokens.

    A role has letters and marks: `[INST]` and `<|user|>` wherever they stand, otherwise the whole line, as in `USER:`.
    Bare words are none: `user` behind a control token means nothing without it.
    """
    lines = {line.strip() for text in spoken for line in text.splitlines()}
    marked = [line for line in lines if MARKED.match(line)]
    return {role for line in marked for role in BRACKETED.findall(line) or [line]}
