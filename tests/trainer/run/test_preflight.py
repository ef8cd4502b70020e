"""What is refused before any work; more of it is in tests/runs/test_train.py."""

import json

import pytest
import torch
from helpers import random_model, run_tiny, tiny_config

from advgame.trainer.base import collectives
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy, save_policy
from advgame.trainer.models.policy import Policy
from advgame.trainer.run.preflight import make_rules, preflight

EVALUATED = ("eval.every=5", "eval.seeds=[harmful-held-out.jsonl]", "eval.limit=2")


def test_a_plan_says_what_is_to_be_done(tmp_path):
    plan = preflight(tiny_config(tmp_path / "run"))
    assert (plan.run, plan.resumed, plan.saved, plan.held_out) == (tmp_path / "run", 0, None, None)
    assert plan.seeds and not (tmp_path / "run").exists()
    assert len(preflight(tiny_config(tmp_path / "run", *EVALUATED)).held_out.seeds) == 2


@pytest.mark.parametrize("name", ["initial-attacks.json", "evaluation.jsonl"])
def test_what_evaluations_are_compared_with_must_be_there(tmp_path, name):
    run = run_tiny(tmp_path, *EVALUATED, "steps=1")
    assert preflight(tiny_config(run, *EVALUATED, "steps=2")).resumed == 1
    (run / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        preflight(tiny_config(run, *EVALUATED, "steps=2"))


@pytest.mark.parametrize("without", ["seeds.benign_share=1", "seeds.files=[benign.jsonl]"])
def test_an_attacker_must_have_seeds_that_it_may_learn_from(tmp_path, without):
    with pytest.raises(ConfigError, match=r"attacker.learn_from_benign=false, but no harmful seeds are dealt"):
        preflight(tiny_config(tmp_path / "run", without, "attacker.learn_from_benign=false"))
    preflight(tiny_config(tmp_path / "run", without, "attacker.learn_from_benign=false", "attacker.train=false"))
    preflight(tiny_config(tmp_path / "run", without))


def test_harmful_seeds_alone_are_dealt_whatever_the_share(tmp_path):
    alone = ("seeds.files=[harmful.jsonl]", "seeds.benign_share=1", "attacker.learn_from_benign=false")
    assert preflight(tiny_config(tmp_path / "run", *alone)).seeds


def test_rules_have_the_settings_and_a_judge(tmp_path):
    config = tiny_config(tmp_path, "judge.kind=arena", "seeds.files=[arena.jsonl]")
    rules = make_rules(config)
    assert rules.attacker is config.attacker and rules.judging is config.judge
    assert rules.judge([]) == []


def test_a_model_that_cannot_be_packed_is_refused_before_anything_is_loaded(tmp_path):
    model = random_model("mistral", sliding_window=8)
    save_policy(Policy(model, load_policy("tiny").tokenizer), tmp_path / "model")
    with pytest.raises(ConfigError, match="cannot be trained in packs"):
        preflight(tiny_config(tmp_path / "run", f"defender.model={tmp_path / 'model'}"))
    assert not (tmp_path / "run").exists()


def test_replayed_seeds_that_are_longer_than_any_attack_count(tmp_path):
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text(json.dumps({"prompt": "lock " * 60, "category": "harmful"}) + "\n")
    options = (f"seeds.files=[{seeds}]", "defender.optimizer.tokens_per_pack=70", "steps=1")
    with pytest.raises(ConfigError, match=r"defender.optimizer.tokens_per_pack=70: a prompt of 6\d tokens"):
        run_tiny(tmp_path / "run", *options, "defender.replay_seeds=true")


@pytest.mark.parametrize("setting", ["attacker.precision", "defender.sampling.precision"])
def test_float32_is_refused_on_cuda(tmp_path, monkeypatch, setting):
    config = tiny_config(tmp_path, f"{setting}=float32")
    preflight(config)
    monkeypatch.setattr(collectives, "device", lambda: torch.device("cuda", 0))
    with pytest.raises(ConfigError, match=f"^{setting}=float32: on CUDA"):
        preflight(config)


@pytest.mark.parametrize("setting", ["attacker.precision", "defender.sampling.precision"])
def test_bfloat16_on_a_processor_that_is_slow_at_it(tmp_path, monkeypatch, setting, recwarn):
    config = tiny_config(tmp_path, f"{setting}=bfloat16")
    monkeypatch.setattr("advgame.trainer.run.preflight.bfloat16_pays", lambda: True)
    preflight(config)
    assert not recwarn.list
    monkeypatch.setattr("advgame.trainer.run.preflight.bfloat16_pays", lambda: False)
    with pytest.warns(match=f"^{setting}=bfloat16: this processor is slow at it; set auto or float32$"):
        preflight(config)


def test_a_judge_of_another_family_needs_a_server(tmp_path):
    save_policy(Policy(random_model("gpt2"), load_policy("tiny").tokenizer), tmp_path / "judge")
    config = tiny_config(tmp_path, "judge.kind=model", f"judge.model={tmp_path / 'judge'}")
    with pytest.raises(ConfigError, match="a gpt2 cannot be sampled without a server"):
        preflight(config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to be relieved")
@pytest.mark.parametrize("offload", ["optimizer", "idle_player"])
def test_offloading_from_a_cpu_is_refused(tmp_path, offload):
    with pytest.raises(ConfigError, match=f"zero.offload={offload}: .*set none"):
        preflight(tiny_config(tmp_path / "run", "engine=zero", f"zero.offload={offload}"))
