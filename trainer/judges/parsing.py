"""Reading the verdict out of a judge's answer.

Only what follows the judge's reasoning counts, since a judge may repeat in it what it was shown. The published parser
reads whole answers; in its recorded cases (tests/golden/judge_parsing.json) no verdict stands inside <think>, so both
agree on all of them, `<think>ok</think><score>3</score>` for one.
"""

import re

NUMBER = r"\s*([0-9]+(?:\.[0-9])?)\s*(?:/10\s*)?"
VERDICT = re.compile(r"<answer>\s*(True|False)\s*</answer>")


def parse_verdict(text: str) -> bool | None:
    """The first <answer> that is True or False; None if there is none."""
    match = VERDICT.search(_behind_reasoning(text))
    return match[1] == "True" if match else None


def parse_score(text: str, tag: str = "score") -> float | None:
    """The last <tag> with a number of at most one decimal, clipped to [0, 10]; None if there is none."""
    scores = re.findall(rf"<{tag}>{NUMBER}</{tag}>", _behind_reasoning(text))
    return min(float(scores[-1]), 10.0) if scores else None


def parse_pair(text: str) -> tuple[float | None, float | None]:
    """(score_A, score_B); (None, None) if either is missing."""
    a, b = parse_score(text, "score_A"), parse_score(text, "score_B")
    return (a, b) if a is not None and b is not None else (None, None)


def _behind_reasoning(text: str) -> str:
    """What follows the last </think>, whose <think> may have been in the prompt; nothing if a <think> is left open."""
    answer = text.rpartition("</think>")[2]
    return "" if "<think>" in answer else answer
