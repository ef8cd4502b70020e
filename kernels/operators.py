"""PyTorch operators whose arguments are records.

torch.library takes tensors and plain values only. So a parameter that is a dataclass becomes one argument per field in
the operator's schema: `flatten` spreads the records of a call, and the operator puts them together again.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields, is_dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.library import CustomOpDef  # type: ignore[attr-defined]  # missing from its __all__


def operator(name: str, compute: Callable[..., Any], shapes: Callable[..., Any]) -> CustomOpDef:
    """Registers torch.ops.advgame.<name>, which is called with flattened arguments.

    Args:
        compute: takes tensors, plain values and dataclasses of them, all annotated; returns a tuple of tensors.
        shapes: takes the same, and returns uninitialised tensors of the same shapes and dtypes, for tracing.
    """
    op = torch.library.custom_op(f"advgame::{name}", _flat(compute), mutates_args=())
    op.register_fake(lambda *flat: shapes(*nest(compute, flat)))
    return op


def call(op: CustomOpDef, *arguments: Any) -> Any:
    """Calls an operator with arguments that may be records.

    Raises:
        NotImplementedError: an argument has a forward-mode tangent. Inside a transform of torch.func an operator does
            not see it, so it is looked for here too; PyTorch would take the derivative for 0.
    """
    flat = flatten(*arguments)
    _refuse_tangents(flat)
    return op(*flat)


def flatten(*arguments: Any) -> list[Any]:
    """The arguments, with the fields of each record in the record's place."""
    flat: list[Any] = []
    for argument in arguments:
        flat.extend(vars(argument).values() if is_dataclass(argument) else [argument])
    return flat


def nest(function: Callable[..., Any], flat: Iterable[Any]) -> list[Any]:
    """The inverse of `flatten`, for the arguments of `function`."""
    values = iter(flat)
    arguments: list[Any] = []
    for parameter in _parameters(function):
        members = _members(parameter)
        arguments.append(parameter.annotation(*islice(values, len(members))) if members else next(values))
    return arguments


def save_inputs(ctx: Any, inputs: Iterable[Any]) -> None:
    """Keeps flattened arguments for the backward pass; tensors with autograd, which notices if one is overwritten."""
    inputs = list(inputs)
    ctx.values = [None if isinstance(value, Tensor) else value for value in inputs]
    ctx.save_for_backward(*(value if isinstance(value, Tensor) else None for value in inputs))


def saved_inputs(ctx: Any) -> list[Any]:
    """What save_inputs was given."""
    return [value if tensor is None else tensor for tensor, value in zip(ctx.saved_tensors, ctx.values, strict=True)]


def _flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with flattened parameters, from whose signature torch.library infers the schema."""

    @functools.wraps(function)
    def call(*flat: Any) -> Any:
        _refuse_tangents(flat)
        return function(*nest(function, flat))

    parameters: list[inspect.Parameter] = []
    for parameter in _parameters(function):
        members = _members(parameter)
        parameters += [parameter.replace(name=member.name, annotation=member.type) for member in members] or [parameter]
    signature = inspect.signature(function)
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _refuse_tangents(flat: Iterable[Any]) -> None:
    for value in flat:
        if isinstance(value, Tensor) and unpack_dual(value).tangent is not None:
            raise NotImplementedError("advgame's operators have no forward-mode derivatives; use backend='eager'")


@functools.cache
def _parameters(function: Callable[..., Any]) -> Sequence[inspect.Parameter]:
    return tuple(inspect.signature(function).parameters.values())


def _members(parameter: inspect.Parameter) -> Sequence[Field[Any]]:
    """The fields of a record, none for another parameter."""
    return fields(parameter.annotation) if is_dataclass(parameter.annotation) else ()
