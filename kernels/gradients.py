"""The gradients of the fused losses: made in the forward pass, handed out in the backward pass."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advgame.kernels.backend import Gradients, Head
from advgame.kernels.operators import call, flatten, nest, operator, save_inputs, saved_inputs
from advgame.kernels.options import Wanted
from advgame.kernels.registry import primitives


def zero_gradients(backend: str, hidden: Tensor, head: Head, wanted: Wanted) -> Gradients:
    """Sums to start from, of the wanted gradients."""
    weight, rest = primitives(backend).weight_sums(head.weight) if wanted.want_weight else (None, None)
    bias = head.bias if wanted.want_bias else None
    return Gradients(
        hidden=hidden.new_zeros(hidden.shape) if wanted.want_hidden else None,
        weight=weight,
        weight_rest=rest,
        bias=None if bias is None else bias.new_zeros(bias.shape, dtype=torch.float32),
    )


def cast_gradients(gradients: Gradients, hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtypes of hidden, weight and bias; an empty tensor for each that is not wanted."""

    def cast(gradient: Tensor | None, like: Tensor | None) -> Tensor:
        return hidden.new_empty(0) if gradient is None or like is None else gradient.to(like.dtype)

    return cast(gradients.hidden, hidden), cast(gradients.weight, head.weight), cast(gradients.bias, head.bias)


def traced_gradients(hidden: Tensor, head: Head, wanted: Wanted) -> tuple[Tensor, Tensor, Tensor]:
    """What cast_gradients returns, by shape and dtype only."""

    def trace(like: Tensor | None, want: bool) -> Tensor:
        return like.new_empty(like.shape) if like is not None and want else hidden.new_empty(0)

    return trace(hidden, wanted.want_hidden), trace(head.weight, wanted.want_weight), trace(head.bias, wanted.want_bias)


def loss_operator(
    name: str, compute: Callable[..., tuple[Tensor, ...]], shapes: Callable[..., tuple[Tensor, ...]], first: int
) -> Callable[..., tuple[Tensor, ...]]:
    """A differentiable operator that computes a loss together with its gradients.

    The gradients are handed out once, multiplied in place by the gradient of the loss: a second tensor of the weight's
    size would cost more than all else that the loss needs. A second backward pass computes them again.

    Args:
        compute, shapes: as in operators.operator. Their parameters begin with hidden: Tensor, head: Head,
            targets: Tensor, options: OpOptions and wanted: Wanted. Of their outputs, the first is the loss, and those
            from place `first` on are its gradients with respect to hidden, weight and bias.

    Returns: a function of the same arguments as `compute`.
    """
    op = operator(name, compute, shapes)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.gradients = output[first:]
        save_inputs(ctx, inputs)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # else zeros would be made for every output, gradients included

    def backward(ctx: Any, grad_loss: Tensor, *unused: None) -> tuple[Tensor | None, ...]:
        traced = type(grad_loss) is not Tensor
        gradients = ctx.gradients
        if not traced:
            ctx.gradients = None
        if gradients is None:
            with torch.no_grad():
                gradients = op(*saved_inputs(ctx))[first:]
        _, _, _, options, wanted, *_ = nest(compute, ctx.values)
        kept = [gradient if want else None for gradient, want in zip(gradients, flatten(wanted), strict=True)]
        if traced:
            kept = [None if gradient is None else gradient * grad_loss.to(gradient) for gradient in kept]
        else:
            for gradient in kept:
                if gradient is not None:
                    primitives(options.backend).scale(gradient, grad_loss)
        return *kept, *([None] * (len(ctx.values) - len(kept)))

    op.register_autograd(backward, setup_context=setup_context)
    return functools.partial(call, op)
