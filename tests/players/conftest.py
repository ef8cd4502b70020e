"""`--made FOLDER`: where `make players` has taught the shipped players anew."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--made", type=Path, metavar="FOLDER", help="compare the shipped players with those in there")


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Path:
    folder = request.config.getoption("--made", default=None)
    if folder is None:
        pytest.skip("make players teaches them, in less than an hour")
    return folder
