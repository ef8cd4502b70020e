"""What a player must write, and how it is taken apart: (think, content), or None when it does not parse."""

import re

FLAGS = re.IGNORECASE | re.DOTALL


def _text(*tags: str) -> str:
    """Any text, as short as can be, in which none of these tags begins or ends, not even half written."""
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


def parse(pattern: re.Pattern, text: str) -> tuple[str, str] | None:
    """(think, content) of a sample, both stripped, or None when it does not have the form of the pattern."""
    match = pattern.fullmatch(text.strip())
    return (match[1].strip(), match[2].strip()) if match else None
