"""The game's variants: what each setting changes, and that each plays to its end."""

import copy
from pathlib import Path

import pytest
import torch
from helpers import MODELS, make_policies, records, run_tiny, tiny_config
from safetensors.torch import load_file

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.step import learn, make_learner
from advgame.trainer.records import Rollout, ScoredGroup
from advgame.trainer.run import checkpoint
from advgame.trainer.run.train import train, turn
from advgame.trainer.settings.load import load_config, shipped_configs
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig


def rollouts(prompt: list[int], *completions: list[int]) -> tuple[Rollout, ...]:
    return tuple(Rollout(prompt, ids, [-1.5] * len(ids), "", True) for ids in completions)


def scored_groups() -> list[ScoredGroup]:
    return [
        ScoredGroup(rollouts([4, 5, 6], [7, 8, 9], [10], [11, 12]), (1.0, -2.0, 0.5), (True, True, False)),
        ScoredGroup(rollouts([7], [8, 9], [9, 9, 9, 9], [5]), (0.3, -0.4, 2.0), (True, True, True)),
    ]


def spelt_out_grpo(policy, reference, groups, normalization, cap, beta) -> torch.Tensor:
    """-(mean of) exp(logp - sg(logp)) A min(exp(logp - sampled), cap) - beta (exp(r) - r - 1), a sample at a time."""

    def logps(model, prompt, ids):
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]

    terms, tokens = [], 0
    for group in groups:
        for sample, advantage, valid in zip(group.rollouts, group.advantages, group.valid, strict=True):
            logp = logps(policy, sample.prompt_ids, sample.token_ids)
            with torch.no_grad():
                r0 = logps(reference, sample.prompt_ids, sample.token_ids)
            term = torch.exp(logp - logp.detach()) * advantage
            if cap:
                term = term * torch.exp(logp - torch.tensor(sample.logprobs)).clamp(max=cap)
            r = r0 - logp
            term = term - beta * (r.exp() - r - 1)
            terms.append(valid * (term.mean() if normalization == "length_normalized" else term.sum()))
            tokens += valid * len(term)
    return -torch.stack(terms).sum() / (tokens if normalization == "token_mean" else len(terms))


@pytest.mark.parametrize("tokens_per_pack", [9, 1000])
@pytest.mark.parametrize("normalization", ["length_normalized", "token_mean", "sum"])
@pytest.mark.parametrize(("cap", "beta"), [(None, 0.0), (2.0, 0.3)])
def test_a_grpo_step_is_the_mean_over_all_samples_however_they_are_packed(normalization, cap, beta, tokens_per_pack):
    loss = LossConfig("grpo", beta=beta, normalization=normalization, importance_cap=cap, filter_eps=0.0)
    optimizer = OptimizerConfig(lr=1e-2, max_grad_norm=0.0, tokens_per_pack=tokens_per_pack)
    config = PlayerConfig(model="tiny", reference="recompute", loss=loss, optimizer=optimizer)
    learner = make_learner("attacker", make_policies("tiny"), config)
    policy, ema = learner.policies.policy.model, learner.policies.ema.model
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    expected = copy.deepcopy(policy)
    loss = spelt_out_grpo(expected, ema, scored_groups(), normalization, cap, beta)
    loss.backward()
    norm = torch.cat([p.grad.flatten() for p in expected.parameters()]).norm().item()
    metrics = learn(learner, scored_groups(), 0)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert metrics["groups"] == 2


def weights(run, step: int, name: str) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder(run, step) / name / "model.safetensors")


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_players_take_turns(tmp_path):
    options = (
        "schedule=sequential",
        "steps_per_turn=2",
        "steps_per_batch=1",
        "checkpoint.every=2",
        "checkpoint.keep=9",
    )
    run = run_tiny(tmp_path, *options, "steps=6")
    for step, learns in ((4, "defender"), (6, "attacker")):
        for name in MODELS:
            unchanged = same(weights(run, step, name), weights(run, step - 2, name))
            assert unchanged != name.startswith(learns), (step, name)
    assert ["loss" in line["attacker"] or "lr" in line["attacker"] for line in records(run)] == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("base", [name for name in shipped_configs() if not name.startswith("variants/")])
def test_in_turns_both_players_take_as_many_steps(base):
    config = load_config([base, "variants/sequential"], [])
    turns = [turn(config, step) for step in range(config.steps)]
    assert turns.count(("attacker",)) == turns.count(("defender",)) == config.steps / 2


def test_seeds_are_replayed_to_the_defender_alone(tmp_path):
    run = run_tiny(tmp_path, "defender.replay_seeds=true", "steps=2", "steps_per_batch=2")
    text = (run / "samples" / "step-000001.txt").read_text()
    assert text.count("as it is:") == text.count("seed:") == 4
    assert text.count("attack 1:") == 4 and "attack 5:" not in text
    assert records(run)[0]["game"]["prompt_tokens"] > 0


@pytest.mark.parametrize("loss", ["dpo", "grpo"])
def test_the_attacker_may_do_without_malformed_attacks(tmp_path, loss):
    options = (f"attacker.loss.name={loss}", "steps_per_batch=1")
    whole = run_tiny(tmp_path / "whole", *options, "steps=1")
    run = run_tiny(tmp_path / "without", *options, "steps=4", "attacker.learn_from_malformed=false")
    lines, unit = records(run), "groups" if loss == "grpo" else "pairs"
    outcomes = [line["game"]["prompt_outcomes"] for line in lines]
    assert [line["attacker"]["left_out"] for line in lines] == [
        known.get("max_length", 0) + known.get("parsing", 0) for known in outcomes
    ]
    first, without = records(whole)[0], lines[0]
    assert first["game"] == without["game"] and first["defender"] == without["defender"]
    assert first["attacker"]["left_out"] == 0 < without["attacker"]["left_out"]
    assert first["attacker"]["tokens"] > without["attacker"]["tokens"] > 0
    assert all(0 < line["attacker"][unit] <= 8 for line in lines)


@pytest.mark.parametrize("loss", ["dpo", "grpo"])
def test_the_attacker_may_do_without_benign_seeds(tmp_path, loss):
    options = (f"attacker.loss.name={loss}", "steps_per_batch=1", "steps=1")
    whole, without = (
        records(run_tiny(tmp_path / str(learns), *options, f"attacker.learn_from_benign={learns}"))[0]
        for learns in (True, False)
    )
    assert without["attacker"]["left_out"] == 4 * 4  # four attacks on each of the four benign seeds
    assert whole["game"] == without["game"] and whole["defender"] == without["defender"]
    assert whole["attacker"]["tokens"] > without["attacker"]["tokens"] > 0


@pytest.mark.parametrize("loss", ["dpo", "grpo"])
def test_without_malformed_attacks_nothing_may_be_left(tmp_path, capsys, loss):
    options = (f"attacker.loss.name={loss}", "steps_per_batch=1", "alarms.idle_steps=2")
    short = ("steps=2", "attacker.sampling.max_new_tokens=1", "attacker.learn_from_malformed=false")
    lines = records(run_tiny(tmp_path, *options, *short))
    assert [(line["attacker"]["left_out"], line["attacker"]["idle"]) for line in lines] == [(32, "rewards")] * 2
    assert "raise attacker.sampling.max_new_tokens" in capsys.readouterr().out


def run_variant(variant: str, output_dir: Path, *overrides: str) -> Path:
    train(load_config(["tiny", variant], [f"output_dir={output_dir}", *overrides]))
    return output_dir


@pytest.mark.parametrize("variant", shipped_configs("variants"))
def test_every_variant_plays_to_its_end(variant, tmp_path):
    short = ("steps=2", "defender.optimizer.decay_steps=0")
    assert len(records(run_variant(variant, tmp_path, *short))) == 2


def test_on_policy_the_reference_stays_what_the_run_began_with(tmp_path):
    run = run_variant("variants/on-policy", tmp_path, "steps=4", "steps_per_batch=1")
    start = make_policies("tiny").policy.model.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in weights(run, 4, "defender_ema").items())
    assert not same(weights(run, 4, "defender"), weights(run, 4, "defender_ema"))


def test_a_slower_average_can_be_the_reference(tmp_path):
    options = ("defender.reference=recompute", "defender.reference_decay=1", "steps_per_batch=1", "checkpoint.every=2")
    whole = run_tiny(tmp_path / "whole", *options, "steps=4")
    cut = run_tiny(tmp_path / "cut", *options, "steps=2")
    run_tiny(cut, *options, "steps=4")
    assert records(cut) == records(whole)
    start = make_policies("tiny").policy.model.state_dict()
    assert all(torch.equal(value, start[key]) for key, value in weights(cut, 4, "defender_reference").items())
    assert not same(weights(cut, 4, "defender_ema"), weights(cut, 4, "defender_reference"))
    assert not (checkpoint.folder(cut, 4) / "attacker_reference").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["defender.reference_decay=0.99"], "defender.reference_decay=0.99: .* set defender.reference=recompute"),
        (["attacker.sample_from=policy"], "attacker.sample_from=policy: .* set attacker.reference=recompute"),
        (
            ["defender.loss.normalization=sum"],
            "defender.loss.normalization=sum: for grpo only, not dpo; set it to length",
        ),
        (
            ["defender.loss.importance_cap=2"],
            "defender.loss.importance_cap=2.0: for grpo only, not dpo; set it to null",
        ),
        (["attacker.loss.name=grpo", "attacker.loss.nll_weight=1"], "nll_weight=1.0: for dpo and ipo only, not grpo"),
        (["attacker.loss.beta=0"], "attacker.loss.beta=0: must be positive with dpo"),
        (["attacker.loss.name=grpo", "attacker.loss.importance_cap=0"], "importance_cap=0: must be positive, or null"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        tiny_config(tmp_path, *overrides)
