"""Log-prob of each target token, from hidden states and the LM head."""

import torch
from torch import Tensor

from advgame.kernels.arguments import check_head, check_targets, require
from advgame.kernels.eager import head_logprobs
from advgame.kernels.extension import resolve_backend
from advgame.kernels.fused import Gradients, Head, Workspace, pieces, resolve_filter_eps, run_chunks


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
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(logits / temperature)[target], where logits = hidden weight^T + bias, soft-capped if asked.

    Args:
        hidden: [T, H], floating point. weight: [V, H], of hidden's dtype. targets: [T] int64 in [0, V).
        bias: [V] or None.
        logit_softcap: c > 0 turns the logits into c tanh(logits / c) (Gemma 2, arXiv 2408.00118); None: off.
        temperature: > 0.
        return_entropy: also return each token's entropy in nats, [T], detached, from the same pass.
        filter_eps: relative error allowed in the gradient by the logits. 0 is exact to float32. "auto" is the library's
            choice, and there log-probs may be off by some 1e-5 too: float32 products are then made of three bfloat16
            ones where the processor is fast at those (csrc/factor.h). The eager backend is always exact.
        backend: "eager" (plain PyTorch, the oracle), "cpu" (csrc/), "triton", or None, which picks by device.

    Returns:
        [T] float32 (float64 for float64 inputs), differentiable in hidden, weight and bias.

    Raises:
        ValueError: a wrong shape, dtype, device or range; the message names the argument.
    """
    check_head(hidden, weight, targets, bias, logit_softcap)
    require(temperature > 0, f"temperature: expected a positive number, got {temperature}")
    eps = resolve_filter_eps(filter_eps)
    backend = resolve_backend(backend, hidden)
    if backend == "eager":
        check_targets(targets, weight.size(0))
        logps, entropy = head_logprobs(hidden, weight, targets, bias, logit_softcap, temperature, return_entropy)
    else:
        softcap = logit_softcap or 0.0
        logps, entropy = _logprobs(hidden, weight, bias, targets, softcap, temperature, backend, return_entropy, eps)
    return (logps, entropy) if return_entropy else logps


@torch.library.custom_op("advgame::logprobs", mutates_args=())
def _logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logit_softcap: float,
    temperature: float,
    backend: str,
    with_entropy: bool,
    filter_eps: float,
) -> tuple[Tensor, Tensor]:
    check_targets(targets, weight.size(0))
    workspace = Workspace(
        backend, hidden, Head(weight, bias, logit_softcap, temperature), targets, filter_eps, with_entropy
    )
    whole = [(0, hidden.size(0))]
    return run_chunks(workspace, whole, lambda index, logps: logps, Gradients(None, None, None, None))


@_logprobs.register_fake
def _(hidden, weight, bias, targets, logit_softcap, temperature, backend, with_entropy, filter_eps):
    tokens = hidden.size(0)
    return hidden.new_empty(tokens, dtype=torch.float32), hidden.new_empty(
        tokens if with_entropy else 0, dtype=torch.float32
    )


@torch.library.custom_op("advgame::logprobs_backward", mutates_args=())
def _logprobs_backward(
    grad_logps: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logit_softcap: float,
    temperature: float,
    backend: str,
    filter_eps: float,
    want_hidden: bool,
    want_weight: bool,
    want_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    head = Head(weight, bias, logit_softcap, temperature)
    gradients = Gradients.zeros(backend, hidden, head, want_hidden, want_weight, want_bias)
    workspace = Workspace(backend, hidden, head, targets, filter_eps, with_entropy=False)
    chunks = list(pieces(0, hidden.size(0), workspace.primitives.CHUNK_TOKENS))
    run_chunks(workspace, chunks, lambda index, _: grad_logps[slice(*chunks[index])], gradients)
    return gradients.cast(hidden, head)


@_logprobs_backward.register_fake
def _(grad_logps, hidden, weight, bias, targets, cap, temperature, backend, eps, want_hidden, want_weight, want_bias):
    return Gradients.empty(hidden, weight, bias, want_hidden, want_weight, want_bias)


def _setup_context(ctx, inputs, output) -> None:
    hidden, weight, bias, targets, *ctx.options, _, ctx.filter_eps = inputs
    ctx.save_for_backward(hidden, weight, bias, targets)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad_logps, _):
    wanted = ctx.needs_input_grad[:3]
    gradients = _logprobs_backward(grad_logps, *ctx.saved_tensors, *ctx.options, ctx.filter_eps, *wanted)
    return *(g if w else None for g, w in zip(gradients, wanted, strict=True)), *([None] * 6)


_logprobs.register_autograd(_backward, setup_context=_setup_context)
