"""One process or many: the few collectives that the game needs. Each does nothing in a single process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from advgame.trainer.base.errors import ConfigError, Outage, Stopped
from advgame.trainer.base.heartbeat import LIMITS, Heartbeat, Limits, Store
from advgame.trainer.base.stopping import abandonable

T = TypeVar("T")

PATIENCE = timedelta(days=1)
"""How long one process may keep the others waiting, for example for a server that is away. One that is dead or stopped
is noticed sooner (see heartbeat.py)."""

_heartbeats: list[Heartbeat] = []
"""This process's, between start and stop."""


def start(report: Callable[[str], None] = print, limits: Limits = LIMITS) -> None:
    """Joins the processes that torchrun started; does nothing for a single one.

    report: is told why, from a thread, before this process is ended because another has been silent for too long.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group(backend="nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        _heartbeats.append(Heartbeat(_shared_store(), rank(), world_size(), report, limits))


def stop() -> None:
    while _heartbeats:
        _heartbeats.pop().stop()
    if dist.is_initialized():
        dist.destroy_process_group()


def _shared_store() -> Store:
    """The one through which the processes have found each other, over a connection of its own."""
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return PrefixStore("heartbeat", store)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device() -> torch.device:
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def my_share(items: list[T]) -> list[T]:
    """This process's share of the items: every world_size-th one, so that shares are alike."""
    return items[rank() :: world_size()]


def gather(share: list[T]) -> list[T]:
    """The inverse of my_share: all items in their order, on every process."""
    if not dist.is_initialized():
        return share
    shares: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(shares, share)
    items: list = [None] * sum(len(share) for share in shares)
    for r, part in enumerate(shares):
        items[r :: world_size()] = part
    return items


def gather_from(work: Callable[[], list[T]]) -> list[T]:
    """What `work` returns in every process, as `gather` has it; errors are shared (see `together`).

    A signal cuts it short. So `work` must leave no traces, and must call no collective.
    """
    with together(), abandonable():
        share = work()
    return gather(share)


@contextmanager
def together() -> Iterator[None]:
    """Work that each process does alone, and then all wait: an error that a user is told of is raised in all of them.

    So none waits for another that has left. There must be no collective inside.
    """
    error = None
    try:
        yield
    except (ConfigError, Outage, Stopped) as own:
        error = own
    for found in filter(None, gather([error])):
        raise found


def from_first(do: Callable[[], T]) -> T:
    """What `do` returns in the first process; every process gets it, or the error that it raised there."""
    with together():
        result = do() if rank() == 0 else None
    return cast(T, gather([result])[0])


def largest(number: int) -> int:
    """The largest number of any process."""
    return max(gather([number]))


def sum_(tensors: list[torch.Tensor]) -> None:
    """Sums each tensor over the processes, in place."""
    if dist.is_initialized():
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()
