"""What each process of test_zero.py does: `torchrun zeroranks.py FOLDER STAGES LOSSES`. Saves what it learnt."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from helpers import policy_of, random_model

from advgame.trainer.base import collectives
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.learn.collate import collate
from advgame.trainer.learn.forward import reference_logps
from advgame.trainer.learn.step import Learner, accumulate, follow, make_learner, take_step
from advgame.trainer.models.policy import PlayerPolicies
from advgame.trainer.packs import Pack
from advgame.trainer.records import Item, Pair, Rollout, ScoredGroup
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig, ZeroConfig

STEPS = 5


def lessons(loss: str, step: int) -> list[Item]:
    """Seven, which two or four processes cannot share out evenly."""
    generator = torch.Generator().manual_seed(step)

    def tokens(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(97, (length,), generator=generator).tolist()

    def rollout(prompt: list[int]) -> Rollout:
        ids = tokens(1, 9)
        return Rollout(prompt, ids, [-4.0] * len(ids), "", True)

    prompts = [tokens(2, 12) for _ in range(7)]
    if loss != "grpo":
        return [Pair(rollout(prompt), rollout(prompt)) for prompt in prompts]
    advantages = (1.0, -0.5, -0.5)
    return [ScoredGroup(tuple(rollout(p) for _ in advantages), advantages, (True, True, False)) for p in prompts]


def pupil(loss: str, tied: bool, stage: int, max_grad_norm: float = 0.5) -> Learner:
    """A player with an average. stage 0: all weights in every process, without DeepSpeed."""
    policy = policy_of(random_model("llama", tie_word_embeddings=tied))
    config = PlayerConfig(
        model="random",
        ema_decay=0.9,
        loss=LossConfig(loss, beta=0.3, filter_eps=0.0),
        optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=max_grad_norm, tokens_per_pack=60),
    )
    average = policy_of(random_model("llama", tie_word_embeddings=tied)) if stage == 0 else replace(policy)
    return make_learner("attacker", PlayerPolicies(policy, average), config, zero=ZeroConfig(stage=stage))


def learn(learner: Learner, loss: str, first: int = 0, last: int = STEPS) -> list[tuple[float, float]]:
    """The losses and gradient norms of steps."""
    learnt = []
    for step in range(first, last):
        metrics = take_step(learner, lessons(loss, step), lr=1e-3)
        follow(learner)
        learnt.append((metrics["loss"], metrics["grad_norm"]))
    return learnt


def whole(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of the weights of policy and average."""
    policies = learner.policies.by_suffix.items()
    return {f"{s}:{name}": w.detach().clone() for s, policy in policies for name, w in policy.weights()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def check_what_is_dropped_or_not_finite(stage: int) -> None:
    """Nothing changes, and the next step is as if nothing had happened."""
    learner, other = (pupil("dpo", True, stage) for _ in range(2))
    learn(learner, "dpo", 0, 2)
    learn(other, "dpo", 0, 2)
    before = whole(learner)
    accumulate(learner, lessons("dpo", 7))
    norm = learner.engine.drop()
    accumulate(other, lessons("dpo", 7))
    assert math.isclose(other.engine.drop(), norm, rel_tol=1e-6) and norm > 0
    poisoned = lessons("dpo", 3)
    poisoned[1].rollouts[0].logprobs[0] = math.nan  # in one process only
    assert "skipped" in take_step(learner, poisoned, 1e-3)
    accumulate(learner, lessons("dpo", 3))
    learner.engine.backward(
        learner.forward(a_pack(learner), lambda hidden, head: hidden.sum() * head["weight"][0, 0] * math.inf)
    )
    assert not math.isfinite(learner.engine.step(1e-3))
    assert equal(before, whole(learner))
    assert learn(learner, "dpo", 2, 4) == learn(other, "dpo", 2, 4)
    assert equal(whole(learner), whole(other))


def a_pack(learner: Learner) -> Pack:
    (batch, *_) = collate(lessons("dpo", 0), len, 1000, learner.player.device)
    return batch.pack


def check_lent_and_restored(stage: int) -> None:
    """An average computes in the policy's place, exactly as a player with its weights; a state goes on bit for bit."""
    learner = pupil("dpo", False, stage)
    learn(learner, "dpo", 0, 3)
    before, pack = whole(learner), a_pack(learner)
    (lent,) = reference_logps(learner.policies.ema, [pack])
    assert equal(before, whole(learner))
    plain = policy_of(random_model("llama", tie_word_embeddings=False))
    with torch.no_grad():
        for name, weight in plain.named_parameters().items():
            weight.copy_(before[f"_ema:{name}"])
    (expected,) = reference_logps(plain, [pack])
    (own,) = reference_logps(learner.policies.policy, [pack])
    assert torch.allclose(lent, expected, atol=1e-6) and not torch.allclose(lent, own, atol=1e-3)

    state = collectives.gather([learner.engine.state()])[0]  # the first process's
    again = pupil("dpo", False, stage)
    for suffix, policy in again.policies.by_suffix.items():
        weights = {name.partition(":")[2]: w for name, w in before.items() if name.startswith(f"{suffix}:")}
        again.engine.take(policy.shards(), weights.items())
    again.engine.load_state(state)
    again.engine.refresh()
    assert equal(whole(again), before)
    assert learn(learner, "dpo", 3, 5) == learn(again, "dpo", 3, 5)
    assert equal(whole(learner), whole(again))


if __name__ == "__main__":
    torch.set_num_threads(1)
    collectives.start()
    folder, stages, losses = Path(sys.argv[1]), [int(s) for s in sys.argv[2].split(",")], sys.argv[3].split(",")
    for stage in stages:
        for loss in losses:
            for tied in (False, True):
                learner = pupil(loss, tied, stage)
                learnt, weights = learn(learner, loss), whole(learner)
                if collectives.rank() == 0:
                    torch.save((learnt, weights), folder / f"{stage}-{loss}-{tied}")
        check_what_is_dropped_or_not_finite(stage)
        check_lent_and_restored(stage)
    collectives.stop()
    leave(0)
