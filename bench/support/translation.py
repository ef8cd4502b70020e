"""The arena's second language: the same meanings, wrappings, answers and grammar, and no word in common.

It is Pig Latin. That is for people to read: to a player every word is a token, and tells nothing of any other.
"""

ENDING = "ay"
FOREIGN = "?"
"""What a word that is not of the second language becomes in the first: a word of neither."""


def translate(text: str) -> str:
    """From the first language into the second, word by word; what has no letters only, such as <prompt>, stays."""
    return " ".join(word[1:] + word[0] + ENDING if word.isalpha() else word for word in text.split())


def translate_back(text: str) -> str:
    """From the second language into the first."""
    return " ".join(_original(word) if word.isalpha() else word for word in text.split())


def _original(word: str) -> str:
    stem = word.removesuffix(ENDING)
    return stem[-1] + stem[:-1] if word.endswith(ENDING) and stem else FOREIGN
