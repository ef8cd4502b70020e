"""Tables and lines on the terminal."""

import re
from dataclasses import asdict

import pytest
from rich.console import Console

from advgame.trainer.measure.detection import Detection, Estimate
from advgame.trainer.measure.rates import Rate, rate
from advgame.trainer.measure.resources import summarise
from advgame.trainer.report.labels import DETECTION, DIVERSITY, RATES, SHOWN, SIGNS
from advgame.trainer.report.matrices import Cell
from advgame.trainer.report.tables import evaluation_text, print_evaluation, print_matrix, resources_text
from advgame.trainer.report.wording import (
    estimated,
    figures,
    number,
    outcome,
    percent,
    percent_alone,
    percent_of,
    rate_in_lines,
)

RATE_NAMES = ("attack_success", "benign_compliance", "over_refusal")
NOTHING = asdict(Estimate(None, None, None))


def judged(share: float, trials: int) -> Rate:
    successes = round(share * trials)
    return rate([True] * successes + [False] * (trials - successes))


def evaluation(step: int, share: float | None, alarms: tuple[str, ...] = ()) -> dict:
    """Everything has the share, d' and the criterion are -1; or nothing is known."""
    known = rate([]) if share is None else judged(share, 10)
    by_seeds = asdict(Estimate(share, 0.2, 0.9)) if share is not None else NOTHING
    estimate = asdict(Estimate(-1.0, -1.5, 0.25)) if share is not None else NOTHING
    part = dict.fromkeys(RATE_NAMES, asdict(known)) | dict.fromkeys(DETECTION, estimate)
    part |= {f"{name}_by_seeds": by_seeds for name in ("attack_success", "benign_compliance")}
    record = {"step": step} | dict.fromkeys(SHOWN, part)
    return record | {"diversity": dict.fromkeys(DIVERSITY, share), "signs": dict.fromkeys(SIGNS), "alarms": alarms}


def test_figures():
    assert (number(None), number(1.234), number(0.5, ".1f"), percent(0.25), percent(None)) == (
        "–", "1.23", "0.5", "25%", "–",
    )  # fmt: skip
    assert [number(value) for value in (-0.001, -0.0, 0.0, -0.006, -10.0)] == [
        "0.00",
        "0.00",
        "0.00",
        "-0.01",
        "-10.00",
    ]
    assert [outcome(verdict) for verdict in (True, False, None)] == ["succeeded", "failed", "no verdict"]


@pytest.mark.parametrize(
    ("known", "whole", "alone"),
    [
        (rate([True, False] * 2), "50% of 4 (15%–85%)", "50%"),
        (rate([False] * 10), "0% of 10 (0%–28%)", "0%"),
        (rate([True, False, None]), "50% of 2 (9%–91%; 1 of 3 unjudged)", "50% (1 of 3 unjudged)"),
        (rate([None] * 7, 1), "– (7 of 8 unjudged)", "– (7 of 8 unjudged)"),
        (rate([]), "–", "–"),
    ],
)
def test_a_rate_says_what_it_is_worth(known, whole, alone):
    assert (percent_of(known), percent_alone(known)) == (whole, alone)
    lines = rate_in_lines(known, Estimate(known.share, None, None)).split("\n")
    assert lines[0] == alone.split()[0] and ("unjudged" in lines[-1]) == (known.unjudged > 0)


def test_an_evaluation_beside_that_of_the_start(capsys):
    print_evaluation(evaluation(7, 0.5, ("odd",)) | {"start": evaluation(0, None)}, Console(width=100))
    shown = capsys.readouterr().out
    labels = [*SHOWN.values(), *([RATES[name] for name in RATE_NAMES] + [*DETECTION.values()]) * 4]
    labels += [*DIVERSITY.values(), *SIGNS.values()]
    assert all(shown.count(label) == labels.count(label) for label in labels), shown
    assert "step 7" in shown and shown.endswith("alarm: odd\n")
    assert shown.count("50% of 10 (24%–76%; by seeds 20%–90%)") == 2 * 4 and shown.count("50% of 10 (24%–76%)") == 4
    assert shown.count("-1.00 (-1.50 to 0.25)") == 2 * 4


def test_an_evaluation_in_lines_has_what_was_measured_and_nothing_else():
    record = evaluation(3, 0.5)
    nothing = evaluation(3, None)["written"]
    harmful_alone = {"attack_success": asdict(rate([None, True])), "attack_success_by_seeds": asdict(Estimate(1, 1, 1))}
    record |= {"initial": nothing, "written": nothing | harmful_alone}
    half, estimate = "50% of 10 (24%–76%; by seeds 20%–90%)", "-1.00 (-1.50 to 0.25)"
    everything = f"attack success {half}, benign compliance {half}, d′ {estimate}, criterion {estimate}"
    assert evaluation_text("evaluation at step 3", record).split("\n") == [
        "evaluation at step 3: self-BLEU 0.50",
        f"  current attacker: {everything}",
        "  held-out attacks: attack success 100% of 1 (21%–100%; by seeds 100%–100%; 1 of 2 unjudged)",
        f"  plain seeds: {everything}",
    ]


def test_an_estimate_says_what_it_is_worth():
    known = (Estimate(1.234, 0.5, 2), Estimate(0.0, None, None), Estimate(None, None, None))
    assert [estimated(estimate) for estimate in known] == ["1.23 (0.50 to 2.00)", "0.00", "–"]
    assert percent_of(rate([True, False]), known[1]) == percent_of(rate([True, False])) == "50% of 2 (9%–91%)"


def test_figures_are_by_label_with_what_tells_both_kinds_apart():
    by_seeds, d_prime, nothing = Estimate(0.5, 0.25, 0.75), Estimate(1.0, 0.5, 1.5), Estimate(None, None, None)
    labels = {"faithful": "kept", "attack_success": "won"}
    told = figures(labels, dict.fromkeys(RATES, judged(0.5, 10)), Detection(by_seeds, nothing, d_prime, nothing))
    assert told == {
        "kept": "50% of 10 (24%–76%)",
        "won": "50% of 10 (24%–76%; by seeds 25%–75%)",
        "d′": "1.00 (0.50 to 1.50)",
        "criterion": "–",
    }


def test_no_figure_of_a_wide_table_is_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    steps = list(range(0, 20_000, 1000))
    cell = Cell(rate_in_lines(rate([True] * 9 + [None]), Estimate(1.0, 1.0, 1.0)), 1.0)
    print_matrix("compliance", [[cell] * 20] * 20, steps, Console())
    shown = capsys.readouterr().out
    assert shown.startswith("compliance: attackers down, defenders across, by their step\n")
    for figure in (" 100% ", " 70%–100% ", " by seeds 100%–100% ", " 1 of 10 unjudged "):
        assert shown.count(figure) == 400, figure
    assert "…" not in shown and all(f" {step} " in shown for step in steps)


def test_what_a_run_took_is_not_claimed_unless_it_was_measured():
    def record(joules: dict[str, float | None]) -> dict:
        timing = {"elapsed": 2.0, "peak_memory_gib": 1.5, "sampled_tokens": 1000, "stages": {"saving": 0.25}}
        return {"attacker": {"tokens": 5}, "defender": {}, "timing": timing | {"joules": joules}}

    lines = [record({"cpu": None, "gpu": 1.8e6})] * 2
    text = resources_text(summarise(lines, 400.0))
    assert "energy, cpu                 not measured: no readable counter" in text
    assert "400 g CO2e, of gpu, at 400 g per kWh" in text
    assert re.search(r"^saving +0\.5 s$", text, re.M) and re.search(r"^sampled tokens +2,000$", text, re.M)
    assert "CO2e" not in resources_text(summarise(lines, None))


@pytest.mark.parametrize("labels", [RATES | DETECTION, SHOWN, DIVERSITY, SIGNS])
def test_no_two_things_are_called_the_same(labels):
    assert len(set(labels.values())) == len(labels)
