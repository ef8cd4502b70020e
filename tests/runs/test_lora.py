"""LoRA players: four policies over one frozen model."""

import json

import pytest
import torch
from helpers import records, run_tiny, tiny_config
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.step import accumulate, learn, make_learner
from advgame.trainer.models.load import load_policy
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.run import checkpoint
from advgame.trainer.run.players import load_policies

LORA = ("attacker.lora.rank=4", "defender.lora.rank=2", "attacker.lora.alpha=8")


def pairs() -> list[Pair]:
    def rollout(prompt: list[int], ids: list[int]) -> Rollout:
        return Rollout(prompt, ids, [-1.0] * len(ids), "", True)

    return [
        Pair(rollout([4, 5, 6], [5, 6, 7, 8]), rollout([4, 5, 6], [9, 10])),
        Pair(rollout([7, 8], [11, 12, 13]), rollout([7, 8], [5])),
    ]


def learners(tmp_path):
    config = tiny_config(tmp_path, *LORA)
    loaded = load_policies(config, None)
    return [make_learner(name, policies, getattr(config, name)) for name, policies in loaded.items()]


def test_four_policies_share_one_model(tmp_path):
    attacker, defender = learners(tmp_path)
    policies = [
        policy for learner in (attacker, defender) for policy in (learner.policies.policy, learner.policies.ema)
    ]
    assert len({id(policy.model) for policy in policies}) == 1
    adapters = sum(p.numel() for policy in policies for p in policy.named_parameters().values())
    plain = sum(p.numel() for p in load_policy("tiny").model.parameters())
    assert sum(p.numel() for p in policies[0].model.parameters()) == plain + adapters
    assert adapters < plain
    for learner in (attacker, defender):
        policy, ema = (list(p.named_parameters().values()) for p in (learner.policies.policy, learner.policies.ema))
        assert policy and all(torch.equal(p, e) for p, e in zip(policy, ema, strict=True))


def test_a_step_moves_the_players_own_adapters_and_nothing_else(tmp_path):
    attacker, defender = learners(tmp_path)
    model = attacker.policies.policy.model
    for learner, decay in ((attacker, attacker.config.ema_decay), (defender, defender.config.ema_decay)):
        learner.policies.ema.activate()  # as after sampling
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        learn(learner, pairs(), 0)
        learn(learner, pairs(), 1)  # the first step moves only B: A's gradient is B's, which was 0
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        own = {**learner.policies.policy.named_parameters(), **learner.policies.ema.named_parameters()}
        assert moved == set(own) and decay < 1
    assert model.get_output_embeddings().weight.grad is None


def test_gradients_are_those_of_the_models_own_logits(tmp_path):
    attacker, _ = learners(tmp_path)
    attacker.config.reference, attacker.config.loss.filter_eps = "rollout", 0.0
    policy = attacker.policies.policy
    with torch.no_grad():
        for parameter in policy.named_parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    accumulate(attacker, pairs())
    parameters = policy.named_parameters()
    actual = {name: p.grad.clone() for name, p in parameters.items()}

    def logps(prompt, response):
        logits = policy.model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum() + len(response)

    policy.activate()
    margins = torch.stack(
        [
            logps(p.chosen.prompt_ids, p.chosen.token_ids) - logps(p.rejected.prompt_ids, p.rejected.token_ids)
            for p in pairs()
        ]
    )
    loss = -torch.nn.functional.logsigmoid(0.1 * margins).mean()
    expected = torch.autograd.grad(loss, list(parameters.values()))
    for (name, a), e in zip(actual.items(), expected, strict=True):
        assert torch.allclose(a, e, rtol=1e-3, atol=1e-6), name


def test_a_run_is_saved_as_adapters_and_goes_on_bit_for_bit(tmp_path):
    whole = run_tiny(tmp_path / "whole", *LORA, "steps=6", "checkpoint.every=3")
    cut = run_tiny(tmp_path / "cut", *LORA, "steps=3", "checkpoint.every=3")
    run_tiny(cut, *LORA, "steps=6", "checkpoint.every=3")
    assert records(cut) == records(whole)
    for name in ("attacker", "attacker_ema", "defender", "defender_ema"):
        folders = [checkpoint.folder(run, 6) / name for run in (whole, cut)]
        one, other = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
        assert not (folders[0] / "model.safetensors").exists()
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.folder(whole, 6) / "attacker")
    assert loaded.active_adapters() == ["default"]


def test_one_player_may_have_an_adapter_and_the_other_all_its_weights(tmp_path):
    run = run_tiny(tmp_path, "attacker.lora.rank=4", "steps=2", "steps_per_batch=1")
    assert (checkpoint.folder(run, 2) / "attacker" / "adapter_config.json").exists()
    assert (checkpoint.folder(run, 2) / "defender" / "model.safetensors").exists()


def test_a_saved_adapter_is_a_model_like_any_other(tmp_path):
    run = run_tiny(tmp_path / "run", *LORA, "attacker.optimizer.lr=0.1", "steps=2", "steps_per_batch=1")
    saved = checkpoint.folder(run, 2)
    adapter = load_policies(tiny_config(run, *LORA), saved)["attacker"].policy
    merged = load_policy(saved / "attacker")
    ids = torch.arange(6)[None]
    adapter.activate()
    expected, start = adapter.model(ids).logits, load_policy("tiny").model(ids).logits
    assert torch.allclose(merged.model(ids).logits, expected, atol=1e-4)
    assert not torch.allclose(start, expected, atol=1e-2)

    again = run_tiny(tmp_path / "again", *LORA, f"attacker.model={saved / 'attacker'}", "steps=1", "steps_per_batch=1")
    stacked = load_policy(checkpoint.folder(again, 1) / "attacker")  # an adapter on an adapter's model
    assert torch.allclose(stacked.model(ids).logits, expected, atol=0.1)


def test_an_adapter_whose_base_is_gone_says_so(tmp_path):
    run = run_tiny(tmp_path, *LORA, "steps=1", "steps_per_batch=1")
    config = checkpoint.folder(run, 1) / "attacker" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/gone"}))
    with pytest.raises(ConfigError, match="base_model_name_or_path in its config is wrong: model /gone: neither"):
        load_policy(config.parent)
