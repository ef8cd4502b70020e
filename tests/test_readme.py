"""The README's Python is run as it stands there, and gives the loss that it should."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PAIRS = [([1, 2, 3], [4, 5], [6, 7, 8]), ([9, 1], [2, 2, 2, 2], [3])]


@pytest.fixture(scope="module")
def readme() -> dict:
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(block, namespace)
    return namespace


def model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def logps(model, prompt, response) -> torch.Tensor:
    logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()


def expected_loss(policy, reference) -> float:
    losses = []
    for prompt, chosen, rejected in PAIRS:
        margin = (logps(policy, prompt, chosen) - logps(reference, prompt, chosen)) - (
            logps(policy, prompt, rejected) - logps(reference, prompt, rejected)
        )
        losses.append(-torch.nn.functional.logsigmoid(0.1 * margin))
    return torch.stack(losses).mean().item()


def test_the_packed_step(readme):
    policy, reference = model(0), model(1)
    expected, before = expected_loss(policy, reference), policy.lm_head.weight.clone()
    output = readme["dpo_step"](policy, reference, torch.optim.SGD(policy.parameters(), lr=0.1), PAIRS)
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)
    assert not torch.equal(policy.lm_head.weight, before)


def test_the_padded_replacement(readme):
    policy, reference = model(0), model(1)
    rows = [(p, c) for p, c, _ in PAIRS] + [(p, r) for p, _, r in PAIRS]
    width = max(len(p) + len(r) for p, r in rows)
    input_ids = torch.tensor([p + r + [0] * (width - len(p) - len(r)) for p, r in rows])
    attention_mask = torch.tensor([[1] * len(p + r) + [0] * (width - len(p + r)) for p, r in rows])
    completion_mask = torch.tensor([[0] * len(p) + [1] * len(r) + [0] * (width - len(p + r)) for p, r in rows])
    reference_logps = torch.stack([logps(reference, p, r).detach() for p, r in rows])
    output = readme["fused_dpo_loss"](policy, input_ids, attention_mask, completion_mask, reference_logps, beta=0.1)
    assert output.loss.item() == pytest.approx(expected_loss(policy, reference), abs=1e-5)
