"""Log-prob of each target token, from hidden states and the LM head."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from advgame.kernels.arguments import check_scale, check_targets
from advgame.kernels.backend import Head
from advgame.kernels.eager import head_logprobs
from advgame.kernels.fused import Workspace, differentiate_chunks, measure_chunks, pieces
from advgame.kernels.gradients import traced_gradients
from advgame.kernels.operators import call, flatten, nest, operator, save_inputs, saved_inputs
from advgame.kernels.options import OpOptions, Wanted, resolve_head

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    return_entropy: Literal[False] = False,
    filter_eps: float | str = "auto",
    chunk_tokens: int | None = None,
    backend: str | None = None,
    group: "ProcessGroup | None" = None,
) -> Tensor: ...


@overload
def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    return_entropy: Literal[True],
    filter_eps: float | str = "auto",
    chunk_tokens: int | None = None,
    backend: str | None = None,
    group: "ProcessGroup | None" = None,
) -> tuple[Tensor, Tensor]: ...


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    logit_softcap: float | None = None,
    temperature: float = 1.0,
    return_entropy: bool = False,
    filter_eps: float | str = "auto",
    chunk_tokens: int | None = None,
    backend: str | None = None,
    group: "ProcessGroup | None" = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(logits / temperature)[target], where logits = hidden weight^T + bias, soft-capped on request.

    Args:
        hidden: [T, H], floating point. weight: [V, H], of hidden's dtype. targets: [T] int64 in [0, V).
        bias: [V] or None.
        logit_softcap: c > 0 turns the logits into c tanh(logits / c) (Gemma 2, arXiv 2408.00118); None: off.
        temperature: > 0.
        return_entropy: also return each token's entropy in nats, [T], detached, from the same pass.
        filter_eps: relative error allowed in the gradient with respect to the logits. 0 is exact to float32. "auto" is
            the library's choice, and allows errors of some 1e-5 in the log-probs too: processors with fast bfloat16
            products then make a float32 product of three of them (csrc/factor.h). The eager backend is always exact.
        chunk_tokens: number of tokens whose probabilities are held at a time: fewer take less memory, more make larger
            matrix products. None is the backend's choice. The eager backend holds all of them.
        backend: "eager" (plain PyTorch, the oracle), "cpu" (csrc/), "triton", or None, which picks by device.
        group: ranks over which the head's rows are spread, as under tensor parallelism. Each passes its own weight and
            bias, in the order of the ranks and any number >= 1; V counts all rows. What else is passed is the same on
            all ranks, and so is what they get. hidden's gradient is summed over the ranks, weight's and bias's are each
            rank's own. filter_eps then bounds the error of each rank's part of the gradient. None: one process.

    Returns: [T] float32 (float64 for float64 inputs), differentiable with respect to hidden, weight and bias.

    Raises:
        ValueError: a wrong shape, dtype, device or range, or one that differs between the ranks of the group; the
            message names the argument. What one rank refuses, all refuse.
    """
    check_scale("temperature", temperature)
    head, options = resolve_head(
        hidden, weight, targets, bias, logit_softcap, temperature, group,
        with_entropy=return_entropy, filter_eps=filter_eps, chunk_tokens=chunk_tokens, backend=backend,
    )  # fmt: skip
    if options.backend == "eager":
        check_targets(targets, head.vocab)
        logps, entropy = head_logprobs(hidden, head, targets, return_entropy)
    else:
        logps, entropy = call(_logprobs_operator, hidden, head, targets, options)
    return (logps, entropy) if return_entropy else logps


def _logprobs(hidden: Tensor, head: Head, targets: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    check_targets(targets, head.vocab)
    return measure_chunks(Workspace(hidden, head, targets, options), [(0, hidden.size(0))])


def _logprobs_shapes(hidden: Tensor, head: Head, targets: Tensor, options: OpOptions) -> tuple[Tensor, Tensor]:
    tokens = hidden.size(0)
    shapes = (tokens,), (tokens if options.with_entropy else 0,)
    logps, entropy = (hidden.new_empty(shape, dtype=torch.float32) for shape in shapes)
    return logps, entropy


def _logprobs_backward(
    hidden: Tensor, head: Head, targets: Tensor, options: OpOptions, wanted: Wanted, grad_logps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    workspace = Workspace(hidden, head, targets, options)
    chunks = list(pieces(0, hidden.size(0), workspace.chunk_tokens))
    *_, gradients = differentiate_chunks(workspace, chunks, lambda index, _: grad_logps[slice(*chunks[index])], wanted)
    return gradients


def _logprobs_backward_shapes(
    hidden: Tensor, head: Head, targets: Tensor, options: OpOptions, wanted: Wanted, grad_logps: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return traced_gradients(hidden, head, wanted)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save_inputs(ctx, inputs)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_logps: Tensor, _: None) -> tuple[Tensor | None, ...]:
    hidden, head, targets, options = nest(_logprobs, saved_inputs(ctx))
    options, wanted = replace(options, with_entropy=False), Wanted(*ctx.needs_input_grad[:3])  # hidden, weight, bias
    gradients = call(_logprobs_backward_operator, hidden, head, targets, options, wanted, grad_logps)
    gradients = [gradient if want else None for gradient, want in zip(gradients, flatten(wanted), strict=True)]
    return *gradients, *([None] * (len(ctx.needs_input_grad) - len(gradients)))


_logprobs_operator = operator("logprobs", _logprobs, _logprobs_shapes)
_logprobs_backward_operator = operator("logprobs_backward", _logprobs_backward, _logprobs_backward_shapes)
_logprobs_operator.register_autograd(_backward, setup_context=_setup_context)
