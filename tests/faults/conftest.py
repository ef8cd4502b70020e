"""What every fault leaves for the page: `fault(…)`, and the switch between the quick half and all of it."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.forked import end_all
from faults.page import Fault, write_page

QUICK = 4
"""So many cases of each test are tried in the quick half."""

FAULTS = pytest.StashKey[list[Fault]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults", type=Path, metavar="PAGE", help="inject all faults, not only a few; write the page")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FAULTS] = []


def pytest_report_header(config: pytest.Config) -> str:
    return f"faults: {'all' if in_full(config) else 'the quick half'}, seed {seed_of(config)}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The quick half: a few cases of each test, spread evenly."""
    cases: dict[tuple, list[pytest.Item]] = defaultdict(list)
    for item in items if not in_full(config) else ():
        if Path(__file__).parent in item.path.parents:
            cases[item.path, item.originalname].append(item)
    left_out = {item for same in cases.values() for item in same} - {
        same[i * len(same) // QUICK] for same in cases.values() for i in range(QUICK)
    }
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if in_full(session.config) and exitstatus == pytest.ExitCode.OK:
        write_page(page_of(session.config), session.config.stash[FAULTS], seed_of(session.config))


def page_of(config: pytest.Config) -> Path | None:
    """Where the page goes; None in the quick half."""
    return config.getoption("--faults", default=None)


def in_full(config: pytest.Config) -> bool:
    return page_of(config) is not None


def seed_of(config: pytest.Config) -> int:
    """One for all that is drawn here: hypothesis's own."""
    return int(config.getoption("--hypothesis-seed") or 0)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def page(request) -> Path | None:
    return page_of(request.config)


@pytest.fixture
def seed(request) -> int:
    return seed_of(request.config)


@pytest.fixture
def fault(request) -> Callable[..., None]:
    """Notes a fault for the page: `fault("servers", "an answer of 1 GB", "refused")`; equal ones are counted."""
    return lambda *values, **more: request.config.stash[FAULTS].append(Fault(*values, **more))


@pytest.fixture
def times(request) -> Callable[[int, int], int]:
    """How often to inject a fault: `times(quick, all)`."""
    return lambda quick, full: full if in_full(request.config) else quick
