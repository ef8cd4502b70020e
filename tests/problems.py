"""Random arguments for the losses, and how far a gradient is from the oracle's."""

import torch


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative Frobenius error; NaN and shape mismatches do not pass."""
    assert actual.shape == expected.shape
    return ((actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)).item()


def problem(lengths, hidden=16, vocab=300, dtype=torch.float32, scale=1.0, seed=0) -> dict:
    """Arguments of linear_preference_loss for random sequences of these lengths, the same on every device."""
    device = torch.get_default_device()
    with torch.device("cpu"):
        arguments = _problem(lengths, hidden, vocab, dtype, scale, torch.Generator().manual_seed(seed))
    return {name: value.to(device) for name, value in arguments.items()}


def device_of(backend: str) -> torch.device:
    """Where a backend is tested: Triton on a GPU, or by the interpreter where there is none."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def _problem(lengths, hidden, vocab, dtype, scale, generator) -> dict:
    tokens = sum(lengths)
    return {
        "hidden": (scale * torch.randn(tokens, hidden, generator=generator)).to(dtype),
        "weight": torch.randn(vocab, hidden, generator=generator).to(dtype),
        "targets": torch.randint(vocab, (tokens,), generator=generator),
        "cu_seqlens": torch.tensor([0, *lengths]).cumsum(0).int(),
        "reference_logps": -6 * torch.tensor(lengths) * (0.8 + 0.4 * torch.rand(len(lengths), generator=generator)),
    }


def in_float64(arguments: dict) -> dict:
    return {
        key: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in arguments.items()
    }


def gradients(function, arguments: dict, names=("hidden", "weight"), **options):
    """(output, gradients by `names`)."""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in names}
    output = function(**arguments | leaves, **options)
    loss = output.loss if hasattr(output, "loss") else output
    loss.backward()
    return output, [leaf.grad for leaf in leaves.values()]
