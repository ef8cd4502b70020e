"""The learner's step against the same step spelt out on separate, unpadded sequences."""

import copy
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import make_policies
from transformers import AutoConfig, AutoModelForCausalLM

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.step import Learner, accumulate, learn, make_learner
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig, SamplingConfig


def random_pairs(count: int, vocab: int, seed: int = 0, shared: int = 0) -> list[Pair]:
    """Every other prompt begins with the same `shared` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(vocab, (length,), generator=generator).tolist()

    pairs, opening = [], tokens(shared, shared + 1) if shared else []
    for i in range(count):
        chosen, rejected = tokens(1, 9), tokens(1, 9)
        rejected = rejected[: 1 + int(torch.randint(len(rejected), (), generator=generator))]
        prompt = opening * (i % 2) + tokens(2, 12)
        pairs.append(Pair(*(Rollout(prompt, ids, [0.0] * len(ids), "", True) for ids in (chosen, rejected))))
    return pairs


def with_a_slow_average(policies: PlayerPolicies) -> PlayerPolicies:
    return replace(policies, slow=replace(policies.ema, model=copy.deepcopy(policies.ema.model)))


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

    def logps(model, rollout):
        prompt, response = rollout.prompt_ids, rollout.token_ids
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()

    total = 0.0
    for pair in pairs:
        chosen, rejected = logps(policy, pair.chosen), logps(policy, pair.rejected)
        with torch.no_grad():
            reference_margin = logps(reference, pair.chosen) - logps(reference, pair.rejected)
        margin = chosen - rejected - reference_margin
        total = total - torch.nn.functional.logsigmoid(0.3 * margin) - 0.2 * chosen / len(pair.chosen.token_ids)
    return total / len(pairs)


@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize(("tokens_per_pack", "shared"), [(26, 0), (70, 20), (1000, 20)])
def test_a_step_is_adamw_on_the_mean_loss_and_then_the_average_moves(tokens_per_pack, shared, checkpoint_activations):
    config = player_config(tokens_per_pack=tokens_per_pack, checkpoint_activations=checkpoint_activations)
    learner = make_learner("attacker", make_policies("tiny"), config)
    policy, ema = learner.policies.policy.model, learner.policies.ema.model
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
    policies = make_policies("tiny")
    requests = [Request(f"query {i}", ("key", i, k)) for i in range(3) for k in range(2)]
    sampling = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=12)
    rollouts = LocalSampler(policies.ema, "attacker").sample(requests, sampling)
    pairs = [Pair(*rollouts[i : i + 2]) for i in range(0, len(rollouts), 2)]
    metrics = {}
    for reference in ("rollout", "recompute"):
        config = player_config()
        config.reference = reference
        learner = make_learner("attacker", copy.deepcopy(policies), config)
        metrics[reference] = learn(learner, pairs, 0)
        del metrics[reference]["accuracy"]  # all margins are 0, but for rounding
    assert 0 < metrics["recompute"].pop("reference_mismatch") < 1e-4
    assert metrics["recompute"] == pytest.approx(metrics["rollout"], rel=1e-4, abs=1e-4)


def test_a_pair_that_is_too_long_for_a_pack_is_named():
    learner = make_learner("attacker", make_policies("tiny"), player_config(tokens_per_pack=5))
    with pytest.raises(ConfigError, match=r"attacker.optimizer.tokens_per_pack: group \d+ has \d+ tokens"):
        learn(learner, random_pairs(4, 40), 0)


def test_training_raises_the_margin():
    learner = make_learner("defender", make_policies("tiny"), player_config())
    pairs = random_pairs(4, learner.policies.policy.model.config.vocab_size)
    margins = [learn(learner, pairs, step)["margin"] for step in range(8)]
    assert margins[0] == pytest.approx(0, abs=1e-4)
    assert margins[-1] > 0.1


def test_the_learning_rate_warms_up_and_decays_and_the_norm_is_that_before_clipping():
    config = player_config(max_grad_norm=0.01, warmup_steps=4, decay_steps=2)
    learner = make_learner("attacker", make_policies("tiny"), config)
    vocab = learner.policies.policy.model.config.vocab_size
    metrics = [learn(learner, random_pairs(2, vocab, s), s, steps=7) for s in range(7)]
    assert [m["lr"] for m in metrics] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.005])
    assert metrics[-1]["grad_norm"] > 0.01


@pytest.mark.parametrize("what", ["none", "cheap", "layers"])
@pytest.mark.parametrize("share_prefixes", [False, True])
def test_neither_sharing_nor_recomputing_changes_the_gradients(share_prefixes, what):
    learner = make_learner("attacker", make_policies("tiny"), player_config(tokens_per_pack=70))
    model = learner.player.model
    pairs = random_pairs(5, model.config.vocab_size, shared=20)
    expected = accumulate(learner, pairs)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    assert accumulate(learner, pairs, share_prefixes, what) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad - gradient).norm() <= 1e-4 * gradient.norm()


def test_what_cannot_be_packed_is_refused_by_name():
    policies = make_policies("tiny")
    config = AutoConfig.for_model("gpt2", vocab_size=97, n_embd=32, n_layer=1, n_head=2)
    gpt2 = Policy(AutoModelForCausalLM.from_config(config), policies.policy.tokenizer)
    with pytest.raises(ConfigError, match="model tiny: a gpt2 cannot be trained in packs"):
        make_learner("attacker", PlayerPolicies(gpt2, policies.ema), player_config())


def test_a_frozen_player_stays_bit_identical():
    config = player_config()
    config.train = False
    learner = make_learner("attacker", make_policies("tiny"), config)
    before = [p.clone() for m in (learner.policies.policy, learner.policies.ema) for p in m.model.parameters()]
    assert learn(learner, random_pairs(3, 40), 0) == {"pairs": 3}
    after = [p for m in (learner.policies.policy, learner.policies.ema) for p in m.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_without_pairs_the_weights_rest():
    learner = make_learner("attacker", make_policies("tiny"), player_config())
    policy = learner.policies.policy.model
    learn(learner, random_pairs(2, policy.config.vocab_size), 0)
    before = [p.clone() for p in policy.parameters()]
    assert learn(learner, [], 1) == {"pairs": 0, "lr": 0.01}
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def everything(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a player: weights, averages, optimiser."""
    held = dict(learner.engine.state())
    for suffix, policy in learner.policies.by_suffix.items():
        held |= {f"{suffix}:{name}": weight for name, weight in policy.named_parameters().items()}
    return {name: tensor.detach().clone() for name, tensor in held.items()}


def poisoned(pairs: list[Pair], logp: float) -> list[Pair]:
    """The last pair was sampled with such a log-prob."""
    last = pairs[-1].chosen
    return [*pairs[:-1], replace(pairs[-1], chosen=replace(last, logprobs=[logp] * len(last.logprobs)))]


def poison_weights(learner: Learner, value: float) -> None:
    with torch.no_grad():
        learner.policies.policy.model.model.layers[0].mlp.up_proj.weight[0, 0] = value


def poison_gradient(learner: Learner) -> None:
    """The loss stays what it is, but the square of a weight's gradient overflows."""
    mlp = learner.policies.policy.model.model.layers[0].mlp
    with torch.no_grad():
        mlp.up_proj.weight.mul_(1e25)
        mlp.down_proj.weight.mul_(1e-25)


@pytest.mark.parametrize(
    ("poison", "logp", "limit", "reason"),
    [
        (lambda learner: poison_weights(learner, torch.nan), 0.0, math.inf, "loss nan"),
        (lambda learner: poison_weights(learner, torch.inf), 0.0, math.inf, "loss nan"),
        (poison_gradient, 0.0, math.inf, "gradient norm inf"),
        (None, math.nan, math.inf, "loss nan"),
        (None, -math.inf, math.inf, "loss|margin|chosen_reward"),
        (None, 0.0, 0.01, r"loss [\d.]+, of at most 0.01 by max_loss_ratio"),
    ],
)
def test_a_skipped_step_leaves_every_tensor_as_it_is(poison, logp, limit, reason):
    config = player_config()
    config.reference, config.reference_decay = "rollout", 0.9
    learner = make_learner("defender", with_a_slow_average(make_policies("tiny")), config)
    vocab = learner.policies.policy.model.config.vocab_size
    learn(learner, random_pairs(2, vocab), 0)
    if poison:
        poison(learner)
    before = everything(learner)
    assert {key.partition(":")[0] for key in before} >= {"", "_ema", "_reference"} and len(before) > 100
    metrics = learn(learner, poisoned(random_pairs(3, vocab, seed=1), logp), 1, loss_limit=limit)
    assert metrics.keys() == {"pairs", "lr", "skipped"} and re.match(reason, metrics["skipped"])
    after = everything(learner)
    assert all(torch.equal(before[name].nan_to_num(7), after[name].nan_to_num(7)) for name in before)
    assert all(parameter.grad is None for parameter in learner.policies.policy.model.parameters())


def test_after_a_skipped_step_the_next_one_is_what_it_would_have_been():
    config, metrics, weights = player_config(), [], []
    config.reference = "rollout"
    for skips in (False, True):
        learner = make_learner("attacker", make_policies("tiny"), config)
        vocab = learner.policies.policy.model.config.vocab_size
        if skips:
            assert "skipped" in learn(learner, poisoned(random_pairs(2, vocab), math.nan), 0)
        metrics.append(learn(learner, random_pairs(3, vocab, seed=1), 1))
        weights.append(everything(learner))
    assert metrics[0] == metrics[1]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


SCRIPT = """
import hashlib, math, sys
import torch
sys.path.insert(0, sys.argv[1])
from helpers import make_policies
from test_step import everything, player_config, poisoned, random_pairs
from advgame.trainer.base import collectives
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.learn.step import learn, make_learner

torch.set_num_threads(1)
collectives.start()
config = player_config()
config.reference = "rollout"
learner = make_learner("attacker", make_policies("tiny"), config)
vocab = learner.policies.policy.model.config.vocab_size
before = everything(learner)
pairs = random_pairs(4, vocab)
assert collectives.my_share(poisoned(pairs, math.nan)) == collectives.my_share(pairs) or collectives.rank() == 1
metrics = learn(learner, poisoned(pairs, math.nan), 0)  # only the second process meets it
assert metrics["skipped"].startswith("loss nan"), metrics
after = everything(learner)
assert all(torch.equal(before[name], after[name]) for name in before)
assert "loss" in learn(learner, pairs, 1)
assert "loss" in learn(learner, pairs, 2)  # so that the weights tell of the optimiser's state, which the first has
weights = [weight for policy in learner.policies.by_suffix.values() for _, weight in policy.weights()]
states = collectives.gather([[hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for t in weights]])
assert states[0] == states[1]
collectives.stop()
leave(0)
"""


def test_processes_skip_together(tmp_path, request):
    (tmp_path / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    tests = request.config.rootpath / "tests"
    environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parent}"}
    script = [str(tmp_path / "script.py"), str(tests)]
    done = subprocess.run([*launcher, *script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_pair_of_equal_samples_would_teach_nothing(loss):
    """Which is why the game makes none (see game/pair.py)."""
    config = replace(player_config(), loss=LossConfig(loss, filter_eps=0.0))
    learner = make_learner("attacker", make_policies("tiny"), config)
    (pair,) = random_pairs(1, learner.player.model.config.vocab_size)
    norms = [learn(learner, [Pair(pair.chosen, other)], 0)["grad_norm"] for other in (pair.chosen, pair.rejected)]
    assert norms[0] < 1e-4 * norms[1]  # rounding
