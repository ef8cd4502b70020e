"""Numbers as text; a missing one is a dash."""

from collections.abc import Mapping

from advgame.trainer.measure.detection import Detection, Estimate
from advgame.trainer.measure.rates import Rate
from advgame.trainer.report.labels import DETECTION


def number(value: float | None, form: str = ".2f") -> str:
    """Nothing is negative that is rounded to nothing."""
    text = "–" if value is None else format(value, form)
    return text if text.strip("-0.%") else text.lstrip("-")


def percent(share: float | None) -> str:
    return number(share, ".0%")


def percent_of(rate: Rate, by_seeds: Estimate | None = None) -> str:
    """A rate and the number of its trials, its 95% intervals, and how many more have no verdict."""
    details = [interval(rate), interval_by_seeds(by_seeds), unjudged(rate)]
    share = "–" if rate.share is None else f"{rate.share:.0%} of {rate.trials}"
    return share + _bracketed("; ".join(filter(None, details)))


def percent_alone(rate: Rate) -> str:
    """A rate where space is short, and how many have no verdict."""
    return percent(rate.share) + _bracketed(unjudged(rate))


def estimated(estimate: Estimate) -> str:
    """A figure that may be negative, and its 95% interval."""
    return number(estimate.value) + _bracketed(_between(estimate))


def figures(labels: dict[str, str], rates: Mapping[str, Rate], detection: Detection) -> dict[str, str]:
    """As text, by label: the rates that the labels are of, with all their intervals, then d′ and the criterion."""
    told = {
        label: percent_of(rates[name], getattr(detection, f"{name}_by_seeds", None)) for name, label in labels.items()
    }
    return told | {label: estimated(getattr(detection, name)) for name, label in DETECTION.items()}


def rate_in_lines(rate: Rate, by_seeds: Estimate) -> str:
    """A rate as a cell of a matrix: its share, its intervals, how many have no verdict; a line for each."""
    lines = [percent(rate.share), interval(rate), interval_by_seeds(by_seeds), unjudged(rate)]
    return "\n".join(filter(None, lines))


def estimate_in_lines(estimate: Estimate) -> str:
    """An estimate as a cell of a matrix: a line for the figure, one for its interval."""
    return "\n".join(filter(None, [number(estimate.value), _between(estimate)]))


def interval(rate: Rate) -> str:
    """The 95% interval of a rate that is known."""
    return "" if rate.share is None else f"{rate.low:.0%}–{rate.high:.0%}"


def interval_by_seeds(by_seeds: Estimate | None) -> str:
    """That of a rate, where there is one."""
    return "" if by_seeds is None or by_seeds.low is None else f"by seeds {by_seeds.low:.0%}–{by_seeds.high:.0%}"


def unjudged(rate: Rate) -> str:
    """How many of all trials have no verdict, if any have none."""
    return f"{rate.unjudged} of {rate.asked} unjudged" if rate.unjudged else ""


def outcome(succeeded: bool | None) -> str:
    """Of an attempt."""
    return "no verdict" if succeeded is None else "succeeded" if succeeded else "failed"


def _between(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"{number(estimate.low)} to {number(estimate.high)}"


def _bracketed(text: str) -> str:
    return f" ({text})" if text else ""
