"""LoRA players: four policies over one frozen model."""

import copy
import json
import sys

import pytest
import torch
from helpers import records, run_tiny, tiny_config
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from advgame.trainer import checkpoint
from advgame.trainer.config import Config, ConfigError
from advgame.trainer.game import Rollout
from advgame.trainer.learner import accumulate, learn, make_learner
from advgame.trainer.models import load_policy
from advgame.trainer.pairs import Pair
from advgame.trainer.players import load_players

LORA = ("attacker.lora.rank=4", "defender.lora.rank=2", "attacker.lora.alpha=8")


def pairs() -> list[Pair]:
    rollouts = [Rollout(ids, [-1.0] * len(ids), "", True) for ids in ([5, 6, 7, 8], [9, 10], [11, 12, 13], [5])]
    return [Pair([4, 5, 6], rollouts[0], rollouts[1], 2, 1.0), Pair([7, 8], rollouts[2], rollouts[3], 1, 1.0)]


def learners(tmp_path):
    config = tiny_config(tmp_path, *LORA)
    return [make_learner(name, player, getattr(config, name)) for name, player in load_players(config, None).items()]


def test_four_policies_share_one_model(tmp_path):
    attacker, defender = learners(tmp_path)
    policies = [policy for learner in (attacker, defender) for policy in (learner.player.policy, learner.player.ema)]
    assert len({id(policy.model) for policy in policies}) == 1
    adapters = sum(p.numel() for policy in policies for p in policy.named_parameters().values())
    plain = sum(p.numel() for p in load_policy("tiny").model.parameters())
    assert sum(p.numel() for p in policies[0].model.parameters()) == plain + adapters
    assert adapters < plain
    for learner in (attacker, defender):
        policy, ema = (list(p.named_parameters().values()) for p in (learner.player.policy, learner.player.ema))
        assert policy and all(torch.equal(p, e) for p, e in zip(policy, ema, strict=True))


def test_a_step_moves_the_players_own_adapters_and_nothing_else(tmp_path):
    attacker, defender = learners(tmp_path)
    model = attacker.player.policy.model
    for learner, decay in ((attacker, attacker.config.ema_decay), (defender, defender.config.ema_decay)):
        learner.player.ema.activate()  # as after sampling
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        learn(learner, pairs(), 0)
        learn(learner, pairs(), 1)  # the first step moves only B: A's gradient is B's, which was 0
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        own = {**learner.player.policy.named_parameters(), **learner.player.ema.named_parameters()}
        assert moved == set(own) and decay < 1
    assert model.get_output_embeddings().weight.grad is None


def test_gradients_are_those_of_the_models_own_logits(tmp_path):
    attacker, _ = learners(tmp_path)
    attacker.config.reference, attacker.config.loss.filter_eps = "rollout", 0.0
    policy = attacker.player.policy
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
        [logps(p.prompt_ids, p.chosen.token_ids) - logps(p.prompt_ids, p.rejected_ids) for p in pairs()]
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


def test_without_peft_the_setting_is_refused_by_name(tmp_path, monkeypatch):
    config: Config = copy.deepcopy(tiny_config(tmp_path, *LORA))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"attacker.lora.rank=4 needs peft: pip install 'advgame\[peft\]'"):
        load_players(config, None)


def test_a_saved_adapter_is_a_model_like_any_other(tmp_path):
    run = run_tiny(tmp_path / "run", *LORA, "attacker.optimizer.lr=0.1", "steps=2", "steps_per_batch=1")
    saved = checkpoint.folder(run, 2)
    adapter = load_players(tiny_config(run, *LORA), saved)["attacker"].policy
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
