"""Probes in Triton's interpreter: every address that a kernel touches lies in a tensor that it was given."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor


class OutOfBounds(AssertionError):
    """A load or a store, without a mask, of what belongs to no argument of the kernel."""


@contextmanager
def checked_bounds() -> Iterator[list[str]]:
    """While it is open, interpreted kernels raise at an address outside their arguments. Yields the kernels that ran.

    Views are taken for what they show: a row before or behind them is out of bounds, whatever their storage holds.
    """
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    ran: list[str] = []
    inside = np.zeros((0, 2), dtype=np.uint64)  # [begin, end) of each argument's bytes
    plain_load, plain_store, plain_arguments = (
        builder.create_masked_load, builder.create_masked_store, executor._init_args_hst
    )  # fmt: skip

    def check(pointers, mask) -> None:
        size = np.uint64(pointers.get_element_ty().primitive_bitwidth // 8)
        shown = np.broadcast_to(mask.data, pointers.data.shape).astype(bool)
        first = pointers.data[shown].astype(np.uint64)[:, None]
        outside = ~((first >= inside[:, 0]) & (first + size <= inside[:, 1])).any(1)
        if outside.any():
            raise OutOfBounds(f"{ran[-1]}: {outside.sum()} of {len(outside)} addresses are in no argument")

    def load(pointers, mask, *others, **options):
        check(pointers, mask)
        return plain_load(pointers, mask, *others, **options)

    def store(pointers, value, mask, *others, **options):
        check(pointers, mask)
        return plain_store(pointers, value, mask, *others, **options)

    def arguments(self, positional, named):
        nonlocal inside
        on_host = plain_arguments(self, positional, named)
        ran.append(self.fn.__name__)
        inside = np.array([*map(_extent, _tensors([*on_host[0], *on_host[1].values()]))], dtype=np.uint64)
        return on_host

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_masked_load", load)
        patch.setattr(builder, "create_masked_store", store)
        patch.setattr(executor, "_init_args_hst", arguments)
        yield ran


def _tensors(arguments) -> Iterator[torch.Tensor]:
    for argument in arguments:
        if isinstance(argument, TensorDescriptor):
            yield argument.base
        elif isinstance(argument, torch.Tensor):
            yield argument


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """[begin, end) of its bytes in memory."""
    if tensor.numel() == 0:
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
