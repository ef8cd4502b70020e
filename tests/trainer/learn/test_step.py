"""The learner's step against the same step spelt out on separate, unpadded sequences."""

import copy

import pytest
import torch
from helpers import make_player

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.game.pair import Pair
from advgame.trainer.learn.step import learn, make_learner
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.generate import Prompt, sample
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig, SamplingConfig


def random_pairs(count: int, vocab: int, seed: int = 0, shared: int = 0) -> list[Pair]:
    """Every other prompt begins with the same `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(vocab, (length,), generator=generator).tolist()

    pairs, opening = [], tokens(shared, shared + 1) if shared else []
    for i in range(count):
        chosen, rejected = (Rollout(ids, [0.0] * len(ids), "", True) for ids in (tokens(1, 9), tokens(1, 9)))
        length = 1 + int(torch.randint(len(rejected.token_ids), (), generator=generator))
        pairs.append(Pair(opening * (i % 2) + tokens(2, 12), chosen, rejected, length, 1.0))
    return pairs


def player_config(**optimizer) -> PlayerConfig:
    return PlayerConfig(
        model="tiny",
        ema_decay=0.5,
        reference="recompute",
        loss=LossConfig(beta=0.3, nll_weight=0.2),
        optimizer=OptimizerConfig(**{"lr": 1e-2, "max_grad_norm": 0.0, **optimizer}),
    )


def spelt_out_loss(policy, reference, pairs) -> torch.Tensor:
    """DPO with beta 0.3 and 0.2 x NLL per token, one sequence at a time, from the models' own logits."""

    def logps(model, prompt, response):
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()

    total = 0.0
    for pair in pairs:
        chosen = logps(policy, pair.prompt_ids, pair.chosen.token_ids)
        rejected = logps(policy, pair.prompt_ids, pair.rejected_ids)
        with torch.no_grad():
            reference_margin = logps(reference, pair.prompt_ids, pair.chosen.token_ids) - logps(
                reference, pair.prompt_ids, pair.rejected_ids
            )
        margin = chosen - rejected - reference_margin
        total = total - torch.nn.functional.logsigmoid(0.3 * margin) - 0.2 * chosen / len(pair.chosen.token_ids)
    return total / len(pairs)


@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize(("tokens_per_pack", "shared"), [(26, 0), (70, 20), (1000, 20)])
def test_a_step_is_adamw_on_the_mean_loss_and_then_the_average_moves(tokens_per_pack, shared, checkpoint_activations):
    config = player_config(tokens_per_pack=tokens_per_pack, checkpoint_activations=checkpoint_activations)
    learner = make_learner("attacker", make_player("tiny"), config)
    policy, ema = learner.player.policy.model, learner.player.ema.model
    with torch.no_grad():  # a policy that has moved away from its reference
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    pairs = random_pairs(7, policy.config.vocab_size, shared=shared)

    expected, reference = copy.deepcopy(policy), copy.deepcopy(ema)
    loss = spelt_out_loss(expected, reference, pairs)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm().item()
    decayed = [p for p in expected.parameters() if p.dim() > 1]
    others = [p for p in expected.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)).step()

    metrics = learn(learner, pairs, step=0)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for before, average, after, wanted in zip(
        reference.parameters(), ema.parameters(), policy.parameters(), expected.parameters(), strict=True
    ):
        rms = (after - wanted).square().mean().sqrt()  # Adam's first step is as large where a gradient is mere rounding
        assert rms < 1e-3 * config.optimizer.lr
        assert torch.allclose(average, 0.5 * before + 0.5 * after, atol=1e-6)


def test_the_rollouts_log_probs_are_those_of_the_reference():
    """What the moving average sampled, under the moving average again: to 1e-4 a token, and the same step follows."""
    player = make_player("tiny")
    prompts = [Prompt([5 + i, 6, 7], ("key", i, k)) for i in range(3) for k in range(2)]
    rollouts = sample(player.ema, prompts, SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=12))
    pairs = [
        Pair(prompt.token_ids, chosen, rejected, len(rejected.token_ids), 1.0)
        for prompt, chosen, rejected in zip(prompts[::2], rollouts[::2], rollouts[1::2], strict=True)
    ]
    metrics = {}
    for reference in ("rollout", "recompute"):
        config = player_config()
        config.reference = reference
        learner = make_learner("attacker", copy.deepcopy(player), config)
        metrics[reference] = learn(learner, pairs, 0)
        del metrics[reference]["accuracy"]  # all margins are 0, but for rounding
    assert 0 < metrics["recompute"].pop("reference_mismatch") < 1e-4
    assert metrics["recompute"] == pytest.approx(metrics["rollout"], rel=1e-4, abs=1e-4)


def test_a_pair_that_is_too_long_for_a_pack_is_named():
    learner = make_learner("attacker", make_player("tiny"), player_config(tokens_per_pack=5))
    with pytest.raises(ConfigError, match=r"attacker.optimizer.tokens_per_pack: group \d+ has \d+ tokens"):
        learn(learner, random_pairs(4, 40), 0)


def test_training_raises_the_margin():
    learner = make_learner("defender", make_player("tiny"), player_config())
    pairs = random_pairs(4, learner.player.policy.model.config.vocab_size)
    margins = [learn(learner, pairs, step)["margin"] for step in range(8)]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.1


def test_gradients_are_clipped_and_the_learning_rate_warms_up():
    learner = make_learner("attacker", make_player("tiny"), player_config(max_grad_norm=0.01, warmup_steps=4))
    policy = learner.player.policy.model
    metrics = [learn(learner, random_pairs(2, policy.config.vocab_size, s), s) for s in range(5)]
    assert [m["lr"] for m in metrics] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    norm = torch.cat([p.grad.flatten() for p in policy.parameters()]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3) and metrics[-1]["grad_norm"] > 0.01


def test_a_frozen_player_stays_bit_identical():
    config = player_config()
    config.train = False
    learner = make_learner("attacker", make_player("tiny"), config)
    before = [p.clone() for m in (learner.player.policy, learner.player.ema) for p in m.model.parameters()]
    assert learn(learner, random_pairs(3, 40), 0) == {"pairs": 3}
    after = [p for m in (learner.player.policy, learner.player.ema) for p in m.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_pairs_the_weights_rest():
    learner = make_learner("attacker", make_player("tiny"), player_config())
    policy = learner.player.policy.model
    learn(learner, random_pairs(2, policy.config.vocab_size), 0)
    before = [p.clone() for p in policy.parameters()]
    assert learn(learner, [], 1) == {"pairs": 0, "lr": 0.01}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_are_touched():
    learner = make_learner("defender", make_player("tiny"), player_config())
    policy = learner.player.policy.model
    with torch.no_grad():
        next(policy.parameters()).fill_(torch.inf)
    before = [p.clone() for p in policy.parameters()]
    with pytest.raises(FloatingPointError, match=r"defender: .* at step 3.*lr"):
        learn(learner, random_pairs(2, policy.config.vocab_size), 3)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
