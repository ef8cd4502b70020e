"""Inputs of the benches: real hidden states of SmolLM2-135M, or synthetic ones of any shape."""

from dataclasses import dataclass

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

SEQUENCES = 30


@dataclass(frozen=True)
class LossInputs:
    """What a preference loss and its reference pass start from."""

    name: str
    hidden: Tensor
    weight: Tensor
    targets: Tensor
    cu_seqlens: Tensor
    reference_hidden: Tensor
    reference_weight: Tensor


def real_inputs() -> LossInputs:
    """30 responses of unequal length to the shipped seeds, sampled at temperature 0.6 and top-p 0.9."""
    from advgame.trainer.models.sources import cache_folder  # synthetic inputs do without the trainer's dependencies

    file = cache_folder() / "bench-hidden.safetensors"
    if not file.exists():
        save_file(_sample_hidden(), file)
    tensors = load_file(file)
    return _with_reference("SmolLM2-135M", tensors["hidden"], tensors["weight"], tensors["targets"], tensors["lengths"])


def synthetic_inputs(tokens: int, hidden: int, vocab: int, device: str = "cpu") -> LossInputs:
    """Tokens of every certainty: a hidden state leans to its target's embedding, by a strength drawn per token."""
    on_device = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    weight = torch.randn(vocab, hidden, **on_device) / hidden**0.5
    targets = torch.randint(vocab, (tokens,), **on_device)
    strength = 5 + 20 * torch.rand(tokens, 1, **on_device)
    states = strength * weight[targets] + 4 * torch.randn(tokens, hidden, **on_device)
    generator = torch.Generator().manual_seed(0)
    shares = 0.3 + torch.rand(SEQUENCES, generator=generator)
    bounds = (shares.cumsum(0) / shares.sum() * tokens).round().long()
    lengths = bounds.diff(prepend=torch.zeros(1, dtype=torch.long))
    return _with_reference(f"synthetic V={vocab:,} H={hidden}", states, weight, targets, lengths)


def mean_entropy(inputs: LossInputs) -> float:
    """Nats per token."""
    total = 0.0
    for chunk in inputs.hidden.float().split(256):
        logps = (chunk @ inputs.weight.float().T).log_softmax(-1)
        total -= (logps.exp() * logps).sum().item()
    return total / len(inputs.hidden)


def _sample_hidden() -> dict[str, Tensor]:
    from advgame.trainer.models.head import head
    from advgame.trainer.models.load import load_policy
    from advgame.trainer.rollouts.base import Request
    from advgame.trainer.rollouts.local import LocalSampler
    from advgame.trainer.seeds import deal, read_seeds
    from advgame.trainer.settings.schema import SamplingConfig

    policy = load_policy("smollm2-135m")
    seeds = deal(read_seeds(["harmful.jsonl", "benign.jsonl"]), 0, SEQUENCES, seed=0)
    requests = [Request(seed.query, ("bench", i)) for i, seed in enumerate(seeds)]
    sampling = SamplingConfig(temperature=0.6, top_p=0.9, max_new_tokens=120)
    rollouts = LocalSampler(policy, "smollm2-135m", "float32").sample(requests, sampling)
    states, targets, lengths = [], [], []
    for i, rollout in enumerate(rollouts):
        response = rollout.token_ids[: 24 + (i * 37) % 97]  # cut to unequal lengths
        ids = torch.tensor([rollout.prompt_ids + response], device=policy.model.device)
        with torch.no_grad():
            states.append(policy.model.base_model(ids).last_hidden_state[0, len(rollout.prompt_ids) - 1 : -1].cpu())
        targets += response
        lengths.append(len(response))
    weight = head(policy.model)["weight"].detach().cpu().clone()
    return {
        "hidden": torch.cat(states),
        "targets": torch.tensor(targets),
        "lengths": torch.tensor(lengths),
        "weight": weight,
    }


def _with_reference(name: str, hidden: Tensor, weight: Tensor, targets: Tensor, lengths: Tensor) -> LossInputs:
    """The reference is the policy moved a little, so that the pairs' margins spread around zero."""
    generator = torch.Generator(hidden.device).manual_seed(1)
    noise = torch.randn(hidden.shape, generator=generator, device=hidden.device) * hidden.std() * 0.1
    return LossInputs(
        name,
        hidden,
        weight,
        targets,
        torch.cat([torch.zeros(1), lengths.cumsum(0)]).int().to(hidden.device),
        hidden + noise,
        weight.clone(),
    )
