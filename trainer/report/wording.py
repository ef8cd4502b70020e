"""Numbers as text; a missing one is a dash."""

from advgame.trainer.measure.detection import Estimate
from advgame.trainer.measure.rates import Rate


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def percent(share: float | None) -> str:
    return number(share, ".0%")


def percent_of(rate: Rate, by_seeds: Estimate | None = None) -> str:
    """A rate and the number of its trials, its 95% intervals, and how many more have no verdict."""
    drawn = "" if by_seeds is None or by_seeds.low is None else f"by seeds {by_seeds.low:.0%}–{by_seeds.high:.0%}"
    details = [interval(rate), drawn, unjudged(rate)]
    share = "–" if rate.share is None else f"{rate.share:.0%} of {rate.trials}"
    return share + _bracketed("; ".join(filter(None, details)))


def percent_alone(rate: Rate) -> str:
    """A rate where space is short, and how many have no verdict."""
    return percent(rate.share) + _bracketed(unjudged(rate))


def estimated(estimate: Estimate) -> str:
    """A figure that may be negative, and its 95% interval."""
    between = "" if estimate.low is None else f"{estimate.low:.2f} to {estimate.high:.2f}"
    return number(estimate.value) + _bracketed(between)


def in_lines(rate: Rate) -> str:
    """A rate as a cell of a matrix: a line for its share, one for its interval, one for how many have no verdict."""
    return "\n".join(filter(None, [percent(rate.share), interval(rate), unjudged(rate)]))


def interval(rate: Rate) -> str:
    """The 95% interval of a rate that is known."""
    return "" if rate.share is None else f"{rate.low:.0%}–{rate.high:.0%}"


def unjudged(rate: Rate) -> str:
    """How many of all trials have no verdict, if any have none."""
    return f"{rate.unjudged} of {rate.asked} unjudged" if rate.unjudged else ""


def outcome(succeeded: bool | None) -> str:
    """Of an attempt."""
    return "no verdict" if succeeded is None else "succeeded" if succeeded else "failed"


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""
