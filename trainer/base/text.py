"""Text from models and users, made safe to show."""

import unicodedata


def printable(text: str) -> str:
    """Escapes every character that could control a terminal."""
    return "".join(c if _is_harmless(c) else c.encode("unicode_escape").decode() for c in text)


def redacted(text: str, secret: str) -> str:
    """The text without the secret. One of fewer than 8 characters is none: `EMPTY`, which local servers are given."""
    return text.replace(secret, "***") if len(secret) >= 8 else text


def one_line(text: object) -> str:
    """The text with all white space collapsed to single spaces."""
    return " ".join(str(text).split())


def _is_harmless(c: str) -> bool:
    """Joiners are part of words in many scripts, and there are more spaces than one."""
    return c.isprintable() or c in "\n\t\u200c\u200d" or unicodedata.category(c) == "Zs"
