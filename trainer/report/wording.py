"""Numbers as text; a missing one is a dash."""

from advgame.trainer.measure.rates import Rate


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def percent(share: float | None) -> str:
    return number(share, ".0%")


def percent_of(rate: Rate) -> str:
    """A rate and the number of its trials, its 95% interval, and how many more have no verdict."""
    details = [interval(rate), unjudged(rate)]
    share = "–" if rate.share is None else f"{rate.share:.0%} of {rate.trials}"
    return share + _bracketed("; ".join(filter(None, details)))


def percent_alone(rate: Rate) -> str:
    """A rate where space is short, and how many have no verdict."""
    return percent(rate.share) + _bracketed(unjudged(rate))


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
