"""The documentation's Python is run as printed, and gives the losses that it should."""

import re
from pathlib import Path

import pytest
import sharded
import torch
from problems import error
from ranks import on_ranks
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).parents[2]
PAGES = {page.relative_to(ROOT).as_posix(): page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]}
PAIRS = [([1, 2, 3], [4, 5], [6, 7, 8]), ([9, 1], [2, 2, 2, 2], [3])]


def source(page: str) -> str:
    """The page's Python blocks, one after another."""
    return "\n".join(re.findall(r"```python\n(.*?)```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL))


def run(page: str) -> dict:
    """What they define."""
    namespace = {}
    exec(source(page), namespace)
    return namespace


@pytest.fixture(scope="module")
def guide() -> dict:
    return run("docs/kernels/index.md")


@pytest.mark.parametrize("page", [name for name, page in PAGES.items() if "```python" in page.read_text("utf-8")])
def test_every_block_runs(page):
    assert run(page)


def test_the_front_page():
    page = run("README.md")
    logps = (page["hidden"] @ page["lm_head"].T).log_softmax(-1).gather(1, page["targets"][:, None])[:, 0]
    chosen, rejected = torch.stack([logps[:3].sum(), logps[3:].sum()]) - page["reference_logps"]
    expected = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected))
    assert page["output"].loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert page["hidden"].grad.norm() > 0 and page["lm_head"].grad.norm() > 0


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


def test_the_packed_step(guide):
    policy, reference = model(0), model(1)
    expected, before = expected_loss(policy, reference), policy.lm_head.weight.clone()
    output = guide["dpo_step"](policy, reference, torch.optim.SGD(policy.parameters(), lr=0.1), PAIRS)
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)
    assert not torch.equal(policy.lm_head.weight, before)


def test_the_padded_replacement(guide):
    policy, reference = model(0), model(1)
    rows = [(p, c) for p, c, _ in PAIRS] + [(p, r) for p, _, r in PAIRS]
    width = max(len(p) + len(r) for p, r in rows)
    input_ids = torch.tensor([p + r + [0] * (width - len(p) - len(r)) for p, r in rows])
    attention_mask = torch.tensor([[1] * len(p + r) + [0] * (width - len(p + r)) for p, r in rows])
    completion_mask = torch.tensor([[0] * len(p) + [1] * len(r) + [0] * (width - len(p + r)) for p, r in rows])
    reference_logps = torch.stack([logps(reference, p, r).detach() for p, r in rows])
    output = guide["fused_dpo_loss"](policy, input_ids, attention_mask, completion_mask, reference_logps, beta=0.1)
    assert output.loss.item() == pytest.approx(expected_loss(policy, reference), abs=1e-5)


def test_the_loss_over_two_ranks():
    losses, of_hidden, of_rows = zip(*on_ranks(2, sharded.documented, source("docs/kernels/index.md")), strict=True)
    p = sharded.in_float64(sharded.arguments_of(sharded.CASES["dpo"]))
    hidden, head = p["hidden"].requires_grad_(), p["weight"].requires_grad_()

    def sums(states):
        tokens = (states @ head.T).log_softmax(-1).gather(1, p["targets"][:, None])[:, 0]
        return torch.stack([part.sum() for part in tokens.split(p["cu_seqlens"].diff().tolist())])

    ratios = sums(hidden) - sums(0.9 * hidden).detach()
    expected = -torch.nn.functional.logsigmoid(0.1 * (ratios[0::2] - ratios[1::2])).mean()
    expected.backward()
    assert losses[0] == losses[1] == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(*of_hidden) and error(of_hidden[0], hidden.grad) < 5e-3
    assert error(torch.cat(of_rows), head.grad) < 5e-3
