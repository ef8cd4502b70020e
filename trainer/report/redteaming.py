"""What a red-team report says of harmful and benign seeds together, in words."""

from collections import Counter

from advgame.trainer.measure.rates import Rate
from advgame.trainer.measure.redteam import Measured, RedTeaming
from advgame.trainer.report.labels import RATES
from advgame.trainer.report.wording import figures


def parts(results: RedTeaming) -> dict[str, dict[str, str]]:
    """What was measured, by label: of all attempts, then of each value of the field that they are split by."""
    n = results.attacks_per_seed
    labels = {name: label.replace("N", str(n)) for name, label in RATES.items() if name != "best_of_n" or n > 1}
    measured = {"all": Measured(results.rates, results.detection)}
    measured |= {f"{results.by_field}: {value or '–'}": part for value, part in results.by.items()}
    return {name: figures(labels, part.rates, part.detection) for name, part in measured.items()}


def headline(results: RedTeaming) -> str:
    """What a red-team report is about, in a few sentences: attack success, and what the target does for the benign."""
    return f"{_attack_success(results)} {_benign_compliance(results.rates['benign_compliance'])}"


def _attack_success(results: RedTeaming) -> str:
    rate = results.rates["attack_success"]
    if not rate.asked:
        return "There are no harmful seeds: nothing can be said about attack success."
    if rate.share is None:
        known = "Attack success is not known."
    else:
        known = (
            f"{rate.successes} of {rate.trials} judged attacks on harmful seeds succeed: {rate.share:.1%} "
            f"(95% interval {rate.low:.1%} to {rate.high:.1%})."
        )
    return known + _missing(results, rate)


def _benign_compliance(rate: Rate) -> str:
    if not rate.asked:
        return "No benign request reached the target: whether it tells them from harmful ones is not known."
    if rate.share is None:
        known = "Benign compliance is not known."
    else:
        known = (
            f"The target complies in {rate.successes} of {rate.trials} judged responses to attacks on benign seeds: "
            f"{rate.share:.1%} (95% interval {rate.low:.1%} to {rate.high:.1%})."
        )
    missing = f" {rate.unjudged} of {rate.asked} responses ({rate.unjudged_share:.1%}) have no verdict."
    return known + missing if rate.unjudged else known


def _missing(results: RedTeaming, rate: Rate) -> str:
    """How many attacks on harmful seeds have no verdict, and why."""
    if not rate.unjudged:
        return ""
    reasons = Counter(a.outcome for a in results.attempts if a.category == "harmful" and a.outcome.unjudged)
    why = ", ".join(f"{reason.text} ({count})" for reason, count in reasons.most_common())
    missing = f"{rate.unjudged} of {rate.asked} attacks ({rate.unjudged_share:.1%})"
    return f" {missing} have no verdict and are not counted: {why}."
