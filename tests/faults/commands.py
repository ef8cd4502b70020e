"""Commands in this process, for input that should be refused before any work."""

from collections.abc import Callable

import hypothesis
import pytest

from advgame.trainer.commands.main import main

REFUSED, FINE = "refused in one line that names it", "is fine, and played"


def refusal(capsys: pytest.CaptureFixture, *arguments: str) -> str | None:
    """The one line of error that a command gives; None if it does its work. Anything else is a failure."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as left:  # the parser of arguments
        code = left.code
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("warning: ", "usage: ", " "))]
    if code == 0:
        return None
    assert code == 2 and len(told) == 1 and "error: " in told[0], (code, told)
    return told[0]


def explore(seed: int, examples: int) -> Callable[[Callable], Callable]:
    """Makes a test with @given try so many examples, the same ones for the same seed."""
    quiet = hypothesis.settings(
        max_examples=examples, database=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
    )
    return lambda test: hypothesis.seed(seed)(quiet(test))
