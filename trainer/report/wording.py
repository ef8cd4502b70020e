"""Numbers as text; a missing one is a dash."""

from advgame.trainer.measure.attempts import Rate
from advgame.trainer.measure.intervals import wilson


def number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form)


def percent(share: float | None) -> str:
    return number(share, ".0%")


def percent_of(rate: Rate, interval: bool = True) -> str:
    """A rate, its 95% interval and its number of trials."""
    if not rate.trials:
        return "–"
    between = f" ({rate.low:.0%}–{rate.high:.0%})" if interval else ""
    return f"{rate.share:.0%}{between} of {rate.trials}"


def percent_within(share: float | None, trials: int) -> str:
    """A share of trials with its 95% interval, all of one width."""
    if share is None:
        return "–"
    low, high = wilson(round(share * trials), trials)
    return f"{share:4.0%} ({100 * low:.0f}–{100 * high:.0f}%)"
