"""Losses over a head that is spread over ranks: cases, what each rank finds of them, and what the whole head gives."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from problems import in_float64, problem

from advgame.kernels import (
    PreferenceInputs,
    linear_game_loss,
    linear_logprobs,
    linear_policy_loss,
    linear_preference_loss,
)
from advgame.kernels.shards import SumGradient

VOCAB = 300
FILTER_EPS = 0.03
CUTS = {1: [0, 300], 2: [0, 97, 300], 3: [0, 1, 200, 300]}
"""By the number of ranks, where each one's rows begin, and the end."""


@dataclass(frozen=True)
class Case:
    """Arguments of a loss."""

    loss: str
    lengths: tuple[int, ...] = (5, 7, 1, 1, 9, 3)
    options: dict[str, Any] = field(default_factory=dict)
    leaves: tuple[str, ...] = ("hidden", "weight", "bias")
    """What gradients are asked for."""
    spoil: str = ""
    """What is done to the arguments: a key of SPOILERS."""
    dtype: torch.dtype = torch.float32


def _forbid(p: dict, columns: torch.Tensor) -> None:
    p["bias"][columns] = -torch.inf


SPOILERS = {
    "": lambda p: None,
    "nan hidden": lambda p: p["hidden"][3].fill_(torch.nan),
    "inf weight": lambda p: p["weight"][150].fill_(torch.inf),
    "nan weight": lambda p: p["weight"][299].fill_(torch.nan),
    "forbidden tokens": lambda p: _forbid(p, torch.arange(0, VOCAB, 7)),
    "forbidden ranks": lambda p: (_forbid(p, torch.arange(97)), p["targets"].clamp_(97)),
    "forbidden last rank": lambda p: (_forbid(p, torch.arange(97, VOCAB)), p["targets"].clamp_(max=96)),
    "all forbidden": lambda p: _forbid(p, torch.arange(VOCAB)),
    "huge logits": lambda p: p["hidden"].mul_(300),
    "an offset": lambda p: p["bias"].add_(100),
}

CASES = {
    "dpo": Case("preference"),
    "ipo": Case("preference", options={"loss": "ipo", "length_normalize": True, "nll_weight": 0.3}),
    "filtered": Case("preference", options={"filter_eps": "auto"}),
    "entropy": Case("preference", options={"return_entropy": True}),
    "entropy, capped": Case("policy", options={"return_entropy": True, "logit_softcap": 3.0}),
    "soft-capped": Case("preference", options={"logit_softcap": 3.0}),
    "soft-capped, filtered": Case("preference", options={"logit_softcap": 3.0, "filter_eps": "auto"}),
    "two passes": Case("preference", options={"chunk_tokens": 4}),
    "bfloat16": Case("preference", dtype=torch.bfloat16),
    "game": Case("game"),
    "grpo": Case("policy", options={"beta": 0.1}),
    "grpo in chunks": Case("policy", options={"chunk_tokens": 5, "normalization": "token_mean"}),
    "log-probs": Case("logprobs"),
    "temperature": Case("logprobs", options={"temperature": 0.6, "logit_softcap": 5.0, "return_entropy": True}),
    "frozen weight": Case("preference", leaves=("hidden",)),
    "frozen hidden": Case("preference", leaves=("weight", "bias")),
    "all frozen": Case("preference", leaves=()),
    "single tokens": Case("preference", lengths=(1, 1)),
    "nothing": Case("preference", lengths=()),
    "empty sequences": Case("policy", lengths=(0, 3, 0)),
    "no log-probs": Case("logprobs", lengths=(), options={"return_entropy": True}),
}
BROKEN = {
    ", ".join([spoil, loss, *["filtered"] * ("filter_eps" in options)]): Case(
        loss, spoil=spoil, options={"return_entropy": loss == "logprobs"} | options
    )
    for spoil in SPOILERS
    if spoil
    for loss, options in (("logprobs", {}), ("preference", {}), ("logprobs", {"filter_eps": "auto"}))
}


def arguments_of(case: Case) -> dict:
    """Of the loss, with the whole head."""
    p = problem(case.lengths, vocab=VOCAB, dtype=case.dtype)
    generator = torch.Generator().manual_seed(1)
    p["bias"] = torch.randn(VOCAB, generator=generator)
    SPOILERS[case.spoil](p)
    references = p.pop("reference_logps")
    if case.loss == "logprobs":
        del p["cu_seqlens"]
    elif case.loss == "policy":
        p["advantages"] = torch.randn(len(case.lengths), generator=generator)
        p["sampling_logps"], p["reference_logps"] = (
            -6 * torch.rand(2, len(p["targets"]), generator=generator)
        ).unbind()
    else:
        p["reference_logps"] = references
    return p


def evaluate(case: Case, arguments: dict, **options: Any) -> dict[str, torch.Tensor]:
    """The loss, what comes with it, and the gradients, by name."""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in case.leaves}
    arguments, options = arguments | leaves, {"filter_eps": 0.0} | case.options | options
    entropy = None
    if case.loss == "logprobs":
        logps, *rest = (
            returned if isinstance(returned := linear_logprobs(**arguments, **options), tuple) else (returned,)
        )
        loss, entropy = (logps * torch.linspace(-1, 1, len(logps), dtype=logps.dtype)).sum(), rest[0] if rest else None
    elif case.loss == "policy":
        output = linear_policy_loss(**arguments, **options)
        loss, logps, entropy = output.loss, output.logps, output.entropy
    elif case.loss == "game":
        player = PreferenceInputs(**arguments)
        game = linear_game_loss(player, player, **options)
        loss, logps = game.loss, torch.cat([game.attacker.sequence_logps, game.defender.chosen_rewards])
    else:
        output = linear_preference_loss(**arguments, **options)
        loss, logps, entropy = output.loss, output.sequence_logps, output.entropy
    if leaves:
        loss.backward()
    found = {"loss": loss.detach(), "logps": logps.detach()} | {name: leaf.grad for name, leaf in leaves.items()}
    return found if entropy is None else found | {"entropy": entropy}


def whole(case: Case, backend: str = "eager") -> dict[str, torch.Tensor]:
    """Of one process that holds the whole head: in float64 by the oracle, as they are by another backend."""
    arguments = arguments_of(case)
    return evaluate(case, in_float64(arguments) if backend == "eager" else arguments, backend=backend)


def rows_of(ranks: int, rank: int) -> slice:
    return slice(CUTS[ranks][rank], CUTS[ranks][rank + 1])


def share_of(arguments: dict, rows: slice) -> dict:
    """A rank's arguments."""
    return arguments | {"weight": arguments["weight"][rows], "bias": arguments["bias"][rows]}


def shares(cases: dict[str, Case], backends: list[str]) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """What this rank finds of each case, and of `peaked`, by each backend; the oracle in float64."""
    rows = rows_of(dist.get_world_size(), dist.get_rank())
    filters = {"exact": 0.0, "filtered": FILTER_EPS}
    found = {("peaked", b): {name: _logit_gradients(b, eps) for name, eps in filters.items()} for b in backends}
    for name, case in cases.items():
        own = share_of(arguments_of(case), rows)
        for backend in backends:
            arguments = in_float64(own) if backend == "eager" else own
            found[name, backend] = evaluate(case, arguments, backend=backend, group=dist.group.WORLD)
    return found


def peaked() -> dict:
    """Arguments of linear_logprobs whose gradient with respect to the weight is that with respect to the logits,
    transposed: the hidden states are unit vectors."""
    generator = torch.Generator().manual_seed(2)
    return {
        "hidden": torch.eye(64),
        "weight": 4 * torch.randn(VOCAB, 64, generator=generator),
        "targets": torch.randint(VOCAB, (64,), generator=generator),
    }


def _logit_gradients(backend: str, filter_eps: float) -> torch.Tensor:
    """This rank's rows of the gradient with respect to the logits, transposed."""
    p, rows = peaked(), rows_of(dist.get_world_size(), dist.get_rank())
    weight = p["weight"][rows].clone().requires_grad_()
    options = {"backend": backend, "filter_eps": filter_eps, "group": dist.group.WORLD}
    linear_logprobs(p["hidden"], weight, p["targets"], **options).sum().backward()
    return weight.grad


def gradcheck() -> list[bool]:
    """torch's own check, with respect to hidden states and to weight and bias of both ranks at once."""
    p = in_float64(problem((2, 1), hidden=3, vocab=7)) | {"bias": torch.linspace(-1, 1, 7, dtype=torch.float64)}
    references, cu_seqlens = p.pop("reference_logps"), p.pop("cu_seqlens")
    rows = [slice(0, 3), slice(3, 7)][dist.get_rank()]
    group = dist.group.WORLD

    def of_rank(function):
        def loss(hidden, weight, bias):
            weight, bias = (SumGradient.apply(whole, group.group_name)[rows] for whole in (weight, bias))
            return function(hidden, weight, p["targets"], bias=bias, backend="eager", group=group)

        return loss

    leaves = [p[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    losses = [
        lambda *head, **o: linear_logprobs(*head, **o, temperature=0.7),
        lambda *head, **o: linear_preference_loss(*head, cu_seqlens, references, **o, logit_softcap=3.0).loss,
        lambda *head, **o: linear_preference_loss(*head, cu_seqlens, references, **o, loss="ipo").loss,
    ]
    return [torch.autograd.gradcheck(of_rank(loss), leaves) for loss in losses]


def documented(source: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss and the gradients of hidden and of this rank's rows, by the documentation's example."""
    defined: dict[str, Any] = {}
    exec(source, defined)
    p, rows = arguments_of(CASES["dpo"]), rows_of(dist.get_world_size(), dist.get_rank())
    hidden, head = p["hidden"].requires_grad_(), p["weight"][rows].clone().requires_grad_()
    reference = p["hidden"].detach() * 0.9, p["weight"][rows]
    step = defined["tensor_parallel_dpo"]
    output = step(hidden, head, p["targets"], p["cu_seqlens"], *reference, dist.group.WORLD)
    return output.loss.detach(), hidden.grad, head.grad


REFUSED = {
    "weight: expected": (1, lambda p: {"weight": p["weight"][:, 1:]}),
    "weight: expected [V, 16], V > 0": (2, lambda p: {"weight": p["weight"][:0], "bias": p["bias"][:0]}),
    "weight: torch.float64": (0, lambda p: {"weight": p["weight"].double()}),
    "hidden: must be the same": (1, lambda p: {"hidden": p["hidden"].bfloat16(), "weight": p["weight"].bfloat16()}),
    "bias: expected": (2, lambda p: {"bias": p["bias"][1:]}),
    "bias: must be the same": (0, lambda p: {"bias": None}),
    "targets: must be the same": (1, lambda p: {"targets": p["targets"].flip(0)}),
    "requires_grad: must be the same": (2, lambda p: {"weight": p["weight"].clone().requires_grad_()}),
    "filter_eps: must be the same": (0, lambda p: {"filter_eps": 0.5}),
    "filter_eps: expected": (1, lambda p: {"filter_eps": 2.0}),
    "chunk_tokens: must be the same": (1, lambda p: {"chunk_tokens": 3}),
    "backend: must be the same": (2, lambda p: {"backend": "eager"}),
    "backend: expected": (2, lambda p: {"backend": "abacus"}),
    "logit_softcap: must be the same": (2, lambda p: {"logit_softcap": 3.0}),
    "targets: values from 0 to 300 are outside [0, 300)": (None, lambda p: {"targets": torch.tensor([0, 300] * 13)}),
    "targets: values from -1 to 0 are outside [0, 300)": (None, lambda p: {"targets": torch.tensor([0, -1] * 13)}),
    "cu_seqlens: must not decrease": (None, lambda p: {"cu_seqlens": p["cu_seqlens"][[0, 2, 1, 3, 4, 5, 6]]}),
}
"""How an error begins, the rank that is given what is wrong, or None for all, and what that is."""


def refusals() -> dict[str, str]:
    """The errors on this rank. After each of them, the ranks compute a loss together."""
    rank, errors = dist.get_rank(), {}
    p = share_of(arguments_of(CASES["dpo"]), rows_of(dist.get_world_size(), rank))
    options = {"backend": "cpu", "group": dist.group.WORLD}
    for begin, (where, change) in REFUSED.items():
        given = p | options | (change(p) if where in (rank, None) else {})
        try:
            linear_preference_loss(**given)
        except ValueError as error:
            errors[begin] = str(error)
        assert linear_preference_loss(**p, **options).loss.isfinite()
    return errors


def in_a_subgroup() -> str | float:
    """The loss where two ranks of three hold the head, and what the third is told."""
    group, rank = dist.new_group([0, 2]), dist.get_rank()
    rows = {0: slice(0, 97), 1: slice(0, VOCAB), 2: slice(97, VOCAB)}[rank]
    try:
        return linear_preference_loss(**share_of(arguments_of(CASES["dpo"]), rows), group=group).loss.item()
    except ValueError as error:
        return str(error)
