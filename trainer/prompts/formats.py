"""The formats that players must write, and the parser of each."""

import re

from advgame.trainer.records import Parsed

FLAGS = re.IGNORECASE | re.DOTALL


def _text(*tags: str) -> str:
    """The shortest text in which none of these tags is opened or closed, not even an incomplete one."""
    names = "|".join(tags)
    return rf"((?:(?!</?(?:{names})\b|(?:{names})>).)*?)"


def _element(tag: str, *forbidden: str) -> str:
    return f"<{tag}>{_text(*(forbidden or (tag,)))}</{tag}>"


ATTACKER_FORMATS = {
    "think_prompt": re.compile(
        _element("think", "think", "prompt") + r"\s*" + _element("prompt", "think", "prompt"), FLAGS
    ),
    "prompt_only": re.compile("()" + _element("prompt"), FLAGS),
    "any_prompt": re.compile("(.*?)" + _element("prompt"), FLAGS),
}
DEFENDER_FORMATS = {
    "any": re.compile("()(.*)", FLAGS),
    "think_any": re.compile(_element("think") + "(.*)", FLAGS),
    "think_answer": re.compile(
        _element("think", "think", "answer") + r"\s*" + _element("answer", "think", "answer"), FLAGS
    ),
}


def parse(pattern: re.Pattern, text: str) -> Parsed | None:
    """A sample taken apart, both parts stripped; None if it does not match the pattern of a format."""
    match = pattern.fullmatch(text.strip())
    return Parsed(match[1].strip(), match[2].strip()) if match else None
