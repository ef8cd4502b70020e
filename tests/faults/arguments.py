"""Generated arguments of the kernels' losses: every backend must refuse them alike, or give the same answer."""

import math
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from faults.commands import explore
from hypothesis import given
from hypothesis import strategies as st

from advgame.kernels import linear_logprobs, linear_policy_loss, linear_preference_loss

BACKENDS = ("eager", "cpu")
ODD = [math.nan, -math.nan, math.inf, -math.inf, 1e38, 1e-45, 0.0, -0.0]
WRONG: dict[str, list] = {
    "hidden": ["odd", "empty", "double", "transposed", "integers", "one dimension"],
    "weight": ["odd", "empty", "double", "transposed", "one dimension"],
    "bias": ["odd", "short", "integers"],
    "targets": [-1, 50, 2**62, -(2**63), "short", "int32", "float"],
    "cu_seqlens": [[0], [], [0, 5, 3, 8, 12], [-1, 3, 6, 9, 12], [0, 3, 6, 9, 13], [0, 4, 8, 12], [0, 0, 0, 0, 12],
                   [0, 2**31 - 1, 6, 9, 12], [1, 3, 6, 9, 12], "int64", "float"],
    "reference_logps": ["odd", "short", "integers"],
    "advantages": ["odd", "short", "integers"],
    "beta": [*ODD, -1.0, 1e308],
    "nll_weight": [*ODD, -1.0],
    "label_smoothing": [*ODD, 0.5, -0.1],
    "logit_softcap": [*ODD, -5.0, 1e-3],
    "temperature": [*ODD, -1.0],
    "filter_eps": [*ODD, 2.0, -1.0, "much"],
    "chunk_tokens": [0, -1, 1, 2**40],
    "importance_cap": [*ODD, -1.0],
    "loss": ["kto", "", None],
    "normalization": ["mean", None],
    "backend": ["tpu", ""],
}  # fmt: skip
FUNCTIONS = {
    linear_logprobs: {"hidden", "weight", "targets", "bias", "logit_softcap", "temperature", "filter_eps",
                      "chunk_tokens"},
    linear_preference_loss: {"hidden", "weight", "targets", "cu_seqlens", "reference_logps", "bias", "loss", "beta",
                             "nll_weight", "label_smoothing", "logit_softcap", "filter_eps", "chunk_tokens"},
    linear_policy_loss: {"hidden", "weight", "targets", "cu_seqlens", "advantages", "bias", "beta", "importance_cap",
                         "normalization", "logit_softcap", "filter_eps", "chunk_tokens"},
}  # fmt: skip


def good(takes: set[str]) -> dict:
    """12 tokens, 4 sequences, a vocabulary of 50."""
    generator = torch.Generator().manual_seed(0)
    arguments = {
        "hidden": torch.randn(12, 16, generator=generator),
        "weight": torch.randn(50, 16, generator=generator),
        "bias": torch.randn(50, generator=generator),
        "targets": torch.randint(50, (12,), generator=generator),
        "cu_seqlens": torch.tensor([0, 3, 6, 9, 12], dtype=torch.int32),
        "reference_logps": -torch.rand(4, generator=generator) * 10,
        "advantages": torch.randn(4, generator=generator),
    }
    return {name: value for name, value in arguments.items() if name in takes}


def spoilt(tensor: torch.Tensor, how: object, odd: float) -> torch.Tensor:
    """The tensor made wrong."""
    if how == "odd":
        tensor.view(-1)[tensor.numel() // 2] = odd
        return tensor
    if isinstance(how, list):
        return torch.tensor(how, dtype=torch.int32)
    if isinstance(how, int):
        tensor[3] = how
        return tensor
    return {
        "empty": lambda: tensor[:0], "short": lambda: tensor[:-1], "double": tensor.double, "int32": tensor.int,
        "int64": tensor.long, "integers": tensor.long, "float": tensor.float, "transposed": lambda: tensor.T,
        "one dimension": lambda: tensor[0],
    }[how]()  # fmt: skip


def answer(function, arguments: dict, backend: str) -> str | list[torch.Tensor]:
    """What it refuses, or its values and gradients."""
    arguments = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
    wanted = [arguments[name].requires_grad_() for name in ("hidden", "weight") if arguments[name].is_floating_point()]
    try:
        output = function(**{"filter_eps": 0.0, "backend": backend} | arguments)
        values = [output] if isinstance(output, torch.Tensor) else [output.loss]
        if values[0].requires_grad and values[0].numel():
            values += [g for g in torch.autograd.grad(values[0].sum(), wanted, allow_unused=True) if g is not None]
        return [value.detach() for value in values]
    except ValueError as error:
        return str(error).partition(":")[0].partition("=")[0]


def try_arguments(tell: Connection, log: Path, seed: int, examples: int) -> None:
    """Writes down what it tries before it does: after a crash, the last line tells."""
    torch.set_num_threads(1)
    refused = answered = 0

    @explore(seed, examples)
    @given(st.sampled_from(list(FUNCTIONS)), st.data(), st.sampled_from(ODD))
    def try_one(function, data, odd):
        nonlocal refused, answered
        arguments = good(FUNCTIONS[function])
        for name in data.draw(
            st.lists(st.sampled_from(sorted(FUNCTIONS[function])), min_size=1, max_size=2, unique=True)
        ):
            how = data.draw(st.sampled_from(WRONG[name]))
            arguments[name] = spoilt(arguments[name], how, odd) if name in arguments else how
            with log.open("a") as out:
                out.write(f"{function.__name__} {name} {how} {odd}\n")
        one, two = (answer(function, arguments, backend) for backend in BACKENDS)
        if "backend" in (one, two):  # float64 is for one of them
            return
        assert isinstance(one, str) == isinstance(two, str), (
            f"only one of them refuses: {one if isinstance(one, str) else two}"
        )
        if isinstance(one, str):
            refused += 1
            return
        answered += 1
        finite = [
            [all(torch.isfinite(part).all() for part in parts) for parts in (out[:1], out[1:])] for out in (one, two)
        ]
        assert finite[0] == finite[1], f"are the value and the gradients finite? {finite}"
        if all(finite[0]):
            for a, b in zip(one, two, strict=True):
                scale = max(1.0, float(a.abs().amax())) if a.numel() else 1.0
                torch.testing.assert_close(a.float(), b.float(), rtol=1e-3, atol=1e-4 * scale)

    try_one()
    tell.send((refused, answered))
