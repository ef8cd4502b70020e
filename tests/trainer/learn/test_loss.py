"""Losses and their metrics, against the same spelt out from logits."""

from dataclasses import fields, replace
from typing import get_args

import pytest
import torch

from advgame.trainer.learn.collate import Batch, collate
from advgame.trainer.learn.loss import OBJECTIVES, make_objective
from advgame.trainer.records import Item, Pair, Rollout, ScoredGroup
from advgame.trainer.settings.schema import LossConfig

CPU = torch.device("cpu")
VOCAB = 11


def rollout(prompt: list[int], *ids: int) -> Rollout:
    return Rollout(prompt, list(ids), [-1.0 - 0.1 * token for token in ids], "", True)


PAIRS = [
    Pair(rollout([1, 2], 3, 4, 5), rollout([1, 2], 6, 7)),
    Pair(rollout([2], 8), rollout([2], 9, 3, 1)),
    Pair(rollout([5, 1], 2, 2), rollout([5, 1], 4)),
]
SCORED = [
    ScoredGroup((rollout([1, 2], 3, 4, 5), rollout([1, 2], 6), rollout([1, 2], 7, 1)), (0.5, -0.5, 0.0), (1, 1, 0)),
    ScoredGroup((rollout([2], 8, 3), rollout([2], 9, 3, 1)), (0.25, -0.25), (True, True)),
]


def states(batch: Batch) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """(random hidden states, a random head, the log-probs of the batch's tokens by both)."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(batch.pack.targets), 4, generator=generator)
    weight = torch.randn(VOCAB, 4, generator=generator)
    logps = (hidden @ weight.T).log_softmax(-1).gather(-1, batch.pack.targets[:, None])[:, 0]
    return hidden, {"weight": weight, "bias": None, "logit_softcap": None}, logps


def collated(items: list[Item], recomputed: bool) -> Batch:
    (batch,) = collate(items, len, 1000, CPU)
    logps = -2.0 - 0.1 * batch.pack.targets.float()  # each token is off by one
    return replace(batch, recomputed_logps=logps) if recomputed else batch


def of_each(values: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    return list(values.split(batch.pack.cu_seqlens.diff().tolist()))


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", ["dpo", "ipo"])
def test_preferences(name, recomputed):
    objective, batch = make_objective(LossConfig(name, beta=0.3)), collated(PAIRS, recomputed)
    hidden, head, logps = states(batch)
    loss, sums = objective(hidden, head, batch)
    sequences = torch.stack([part.sum() for part in of_each(logps, batch)])
    references = torch.stack([part.sum() for part in of_each(batch.reference_logps, batch)])
    rewards = 0.3 * (sequences - references)
    margins = rewards[0::2] - rewards[1::2]
    expected = -margins.sigmoid().log() if name == "dpo" else (margins / 0.3 - 1 / 0.6).square()
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    spelt_out = {
        "accuracy": (margins > 0).sum(),
        "margin": margins.sum(),
        "chosen_reward": rewards[0::2].sum(),
        "rejected_reward": rewards[1::2].sum(),
        "chosen_logp": sequences[0::2].sum(),
        "rejected_logp": sequences[1::2].sum(),
    } | ({"reference_mismatch": torch.tensor(3.0)} if recomputed else {})
    assert list(sums) == list(spelt_out)
    assert [value.item() for value in sums.values()] == pytest.approx([v.item() for v in spelt_out.values()], rel=1e-4)
    assert objective.unit == "pairs" and objective.count(PAIRS) == 3


@pytest.mark.parametrize("recomputed", [False, True])
def test_policies(recomputed):
    objective, batch = make_objective(LossConfig("grpo", beta=0.3)), collated(SCORED, recomputed)
    hidden, head, logps = states(batch)
    loss, sums = objective(hidden, head, batch)
    ratios = batch.reference_logps - logps
    tokens = of_each(0.3 * (ratios.exp() - ratios - 1), batch)
    samples = zip(tokens, batch.advantages.tolist(), batch.valid.tolist(), strict=True)
    expected = -sum(valid * (advantage - kl.mean().item()) for kl, advantage, valid in samples) / 5
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    drift = torch.stack([-part.mean() for part in of_each(ratios, batch)])
    assert list(sums) == (["drift", "reference_mismatch"] if recomputed else ["drift"])
    assert sums["drift"].item() == pytest.approx((drift[:3].mean() + drift[3:].mean()).item(), rel=1e-4)
    assert not recomputed or sums["reference_mismatch"].item() == pytest.approx(2.0)
    assert objective.unit == "groups"


@pytest.mark.parametrize(("normalization", "count"), [("length_normalized", 5), ("sum", 5), ("token_mean", 9)])
def test_what_a_policy_loss_averages_over(normalization, count):
    assert make_objective(LossConfig("grpo", normalization=normalization)).count(SCORED) == count


def test_every_loss_of_the_settings_has_an_objective():
    assert all(make_objective(LossConfig(name)).unit in ("pairs", "groups") for name in OBJECTIVES)
    (name,) = (field for field in fields(LossConfig) if field.name == "name")
    assert tuple(OBJECTIVES) == get_args(name.type)
