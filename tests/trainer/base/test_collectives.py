"""What processes say to each other: real ones, joined by gloo."""

import subprocess
import sys
from pathlib import Path

import pytest

from advgame.trainer.base import collectives

SCRIPT = """
from pathlib import Path

import torch
from advgame.trainer.base import collectives as c
from advgame.trainer.base.errors import ConfigError, Outage


def away():
    raise Outage("away")


def refuse(rank: int) -> None:
    raise ConfigError(f"refused by {rank}")


c.start()
for count in (0, 1, 4, 5):
    items = [f"item {i}" for i in range(count)]
    assert c.gather(c.my_share(items)) == items
assert c.largest(10 + c.rank()) == 10 + c.world_size() - 1
total = torch.ones(3) * c.rank()
c.sum_([total])
assert total.tolist() == [sum(range(c.world_size()))] * 3
assert c.gather_from(lambda: [c.rank()]) == list(range(c.world_size()))
try:
    c.gather_from(lambda: away() if c.rank() == c.world_size() - 1 else [c.rank()])
except Outage as error:
    assert str(error) == "away"
else:
    raise AssertionError
assert c.from_first(c.rank) == 0
try:
    c.from_first(lambda: refuse(c.rank()))
except ConfigError as error:
    assert str(error) == "refused by 0"
else:
    raise AssertionError("only the first process has heard of it")
c.gather([None])
(Path(__file__).parent / f"rank-{c.rank()}").write_text(str(c.my_share(list(range(5)))))
c.stop()
"""


@pytest.mark.parametrize("processes", [1, 3])
def test_processes_share_work(processes, tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run([*launcher, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shares = [file.read_text() for file in sorted(tmp_path.glob("rank-*"))]
    assert shares == {1: ["[0, 1, 2, 3, 4]"], 3: ["[0, 3]", "[1, 4]", "[2]"]}[processes]


def test_a_single_process_has_everything():
    assert collectives.gather(collectives.my_share([1, 2, 3])) == [1, 2, 3]
    assert (collectives.rank(), collectives.world_size(), collectives.largest(7)) == (0, 1, 7)
