"""Tables and lines on the terminal."""

import re

import pytest
from rich.console import Console

from advgame.trainer.measure.attempts import Rate
from advgame.trainer.measure.resources import summarise
from advgame.trainer.report.labels import DIVERSITY, RATES, SHOWN, SIGNS
from advgame.trainer.report.tables import evaluation_line, print_evaluation, print_matrix, resources_text
from advgame.trainer.report.wording import number, percent, percent_of, percent_within

RATE_NAMES = ("attack_success", "benign_compliance", "over_refusal")


def evaluation(step: int, share: float | None, alarms: tuple[str, ...] = ()) -> dict:
    rates = dict.fromkeys(RATE_NAMES, share) | {"counts": dict.fromkeys(RATE_NAMES, 10)}
    record = {"step": step} | dict.fromkeys(SHOWN, rates)
    return record | {"diversity": dict.fromkeys(DIVERSITY, share), "signs": dict.fromkeys(SIGNS), "alarms": alarms}


def test_figures():
    assert (number(None), number(1.234), number(0.5, ".1f"), percent(0.25), percent(None)) == (
        "–", "1.23", "0.5", "25%", "–",
    )  # fmt: skip
    rate = Rate(0.5, 0.25, 0.75, 2, 4)
    assert (percent_of(rate), percent_of(rate, interval=False)) == ("50% (25%–75%) of 4", "50% of 4")
    assert percent_of(Rate(None, 0.0, 1.0, 0, 0)) == percent_within(None, 0) == "–"
    assert percent_within(0.0, 10) == "  0% (0–28%)"


def test_an_evaluation_beside_that_of_the_start(capsys):
    print_evaluation(evaluation(7, 0.5, ("odd",)) | {"start": evaluation(0, None)}, Console(width=100))
    shown = capsys.readouterr().out
    labels = [RATES[name] for name in RATE_NAMES] + [*SHOWN.values()] * 3 + [*DIVERSITY.values(), *SIGNS.values()]
    assert all(shown.count(label) == labels.count(label) for label in labels), shown
    assert "step 7" in shown and shown.count("50% (24–76%)") == 3 * 4 and shown.endswith("alarm: odd\n")


def test_an_evaluation_in_a_line():
    line = evaluation_line(3, evaluation(3, 0.5) | {"written": {"attack_success": None}})
    assert line == (
        "evaluation at step 3: attack success 50% current attacker, 50% initial attacker, – held-out attacks, "
        "50% plain seeds; benign compliance 50% plain seeds, 50% current attacker; self-BLEU 0.50"
    )


def test_no_figure_of_a_wide_table_is_cut(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    steps = list(range(0, 20_000, 1000))
    print_matrix("compliance", [[1.0] * 20] * 20, steps, Console())
    shown = capsys.readouterr().out
    assert shown.startswith("compliance: attackers down, defenders across, by their step\n")
    assert shown.count("100%") == 400 and "…" not in shown and all(f" {step} " in shown for step in steps)


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


@pytest.mark.parametrize("labels", [RATES, SHOWN, DIVERSITY, SIGNS])
def test_no_two_things_are_called_the_same(labels):
    assert len(set(labels.values())) == len(labels)
