"""The gate for scripts."""

import argparse

import pytest

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.commands.gate import add_gate, check_gate, exit_code
from advgame.trainer.records import Seed

SEEDS = [Seed("a", "benign"), Seed("b", "harmful")]


@pytest.mark.parametrize(
    ("limit", "judged", "rates", "code"),
    [
        (None, False, [1.0], 0),
        (0.5, True, [0.5, None], 0),
        (0.5, True, [None, 0.51], 1),
        (1.0, True, [1.0], 0),
        (1.0, False, [0.0], 1),
        (0.0, True, [0.0, 0.01], 1),
    ],
)
def test_a_gate_opens_only_if_few_enough_attacks_succeed(limit, judged, rates, code, capsys):
    assert exit_code(limit, judged, rates) == code
    unknown = "error: no answer to a harmful seed could be judged: attack success is not known\n"
    assert capsys.readouterr().err == (unknown if limit is not None and not judged else "")


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_a_limit_is_a_share(limit):
    with pytest.raises(ConfigError, match=rf"--max-attack-success {limit:g}: must be between 0 and 1"):
        check_gate(limit, SEEDS, "eval.seeds=[x]")


def test_a_gate_needs_harmful_seeds():
    check_gate(0.0, SEEDS, "eval.seeds=[x]")
    check_gate(None, SEEDS[:1], "eval.seeds=[x]")
    with pytest.raises(ConfigError, match=r"--max-attack-success 0: eval\.seeds=\[x\] has no harmful seeds"):
        check_gate(0.0, SEEDS[:1], "eval.seeds=[x]")


def test_the_option_is_a_number_and_optional():
    parser = argparse.ArgumentParser()
    add_gate(parser)
    assert parser.parse_args([]).max_attack_success is None
    assert parser.parse_args(["--max-attack-success", "0.25"]).max_attack_success == 0.25
