"""Cross-play as matrices, [attacker][defender], to be printed, drawn and put on a page."""

from dataclasses import dataclass

from advgame.trainer.measure.detection import Estimate, detection_in
from advgame.trainer.measure.rates import Rate
from advgame.trainer.report.wording import estimate_in_lines, rate_in_lines

D_PRIMES, CRITERIA = (0.0, 4.0), (-2.0, 2.0)
"""What is shaded as 0 and as 1, as is whatever lies beyond; rates are shaded as they are."""


@dataclass(frozen=True)
class Cell:
    """A figure and its intervals, in lines."""

    text: str
    shade: float | None
    """0 to 1, rising with the figure; None if it is not known."""


Cells = list[list[Cell]]


def matrices(payoff: dict) -> dict[str, Cells]:
    """By title, from payoff.json: a rate for each category of seeds, and for both together what tells them apart."""
    harmful, benign = payoff["harmful"], payoff["benign"]
    detections = [[detection_in(cell) for cell in row] for row in payoff["detection"]]

    def rates(name: str) -> Cells:
        return [
            [
                _rate(Rate(**known), getattr(detection, f"{name}_by_seeds"))
                for known, detection in zip(*row, strict=True)
            ]
            for row in zip(payoff[name], detections, strict=True)
        ]

    def estimates(name: str, span: tuple[float, float]) -> Cells:
        return [[_estimate(getattr(detection, name), *span) for detection in row] for row in detections]

    found = {}
    if harmful:
        found[f"attack success on {harmful} harmful seeds"] = rates("attack_success")
    if benign:
        found[f"compliance on {benign} benign seeds"] = rates("benign_compliance")
    if harmful and benign:
        found["discrimination (d′)"] = estimates("d_prime", D_PRIMES)
        found["threshold (criterion)"] = estimates("criterion", CRITERIA)
    return found


def _rate(rate: Rate, by_seeds: Estimate) -> Cell:
    return Cell(rate_in_lines(rate, by_seeds), rate.share)


def _estimate(estimate: Estimate, low: float, high: float) -> Cell:
    text = estimate_in_lines(estimate)
    if estimate.value is None:
        return Cell(text, None)
    return Cell(text, min(max((estimate.value - low) / (high - low), 0.0), 1.0))
