"""What each process of test_zero.py does: `torchrun zeroranks.py FOLDER CASE …`. The first saves what was learnt."""

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from helpers import policy_of, random_model
from safetensors.torch import save_file

from advgame.trainer.base import collectives
from advgame.trainer.commands.torchrun import leave
from advgame.trainer.engines import zero
from advgame.trainer.engines.saved import SavedState
from advgame.trainer.learn.collate import collate
from advgame.trainer.learn.forward import reference_logps
from advgame.trainer.learn.step import Learner, accumulate, follow, make_learner, take_step
from advgame.trainer.models.policy import PlayerPolicies, Policy
from advgame.trainer.packs import Pack
from advgame.trainer.records import Item, Pair, Rollout, ScoredGroup
from advgame.trainer.settings.schema import LossConfig, OptimizerConfig, PlayerConfig, ZeroConfig

STEPS = 5


@dataclass(frozen=True)
class Case:
    stage: int
    loss: str = "dpo"
    tied: bool = True
    products: str = "float32"
    offload: str = "none"

    def __str__(self) -> str:
        return f"{self.stage},{self.loss},{'tied' if self.tied else 'untied'},{self.products},{self.offload}"

    @staticmethod
    def read(text: str) -> "Case":
        stage, loss, tied, products, offload = text.split(",")
        return Case(int(stage), loss, tied == "tied", products, offload)


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


def pupil(case: Case) -> Learner:
    """A player with an average. Stage 0: all weights in every process, without DeepSpeed."""

    def policy() -> Policy:
        return policy_of(random_model("llama", tie_word_embeddings=case.tied), getattr(torch, case.products))

    config = PlayerConfig(
        model="random",
        ema_decay=0.9,
        loss=LossConfig(case.loss, beta=0.3, filter_eps=0.0),
        optimizer=OptimizerConfig(lr=1e-3, max_grad_norm=0.5 if case.tied else 0.0, tokens_per_pack=60),
    )
    own = policy()
    average = policy() if case.stage == 0 else replace(own)
    sharing = ZeroConfig(stage=case.stage, offload=case.offload)
    return make_learner("attacker", PlayerPolicies(own, average), config, zero=sharing)


def learn(learner: Learner, first: int = 0, last: int = STEPS) -> list[tuple[float, float]]:
    """The losses and gradient norms of steps."""
    learnt = []
    for step in range(first, last):
        metrics = take_step(learner, lessons(learner.config.loss.name, step), lr=1e-3)
        follow(learner)
        learnt.append((metrics["loss"], metrics["grad_norm"]))
    return learnt


def whole(learner: Learner) -> dict[str, torch.Tensor]:
    """Copies of the weights of policy and average."""
    policies = learner.policies.by_suffix.items()
    return {f"{s}:{name}": w.detach().clone() for s, policy in policies for name, w in policy.weights()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def check_what_is_dropped_or_not_finite(case: Case) -> None:
    """Nothing changes, and the next step is as if nothing had happened."""
    learner, other = pupil(case), pupil(case)
    learn(learner, 0, 2)
    learn(other, 0, 2)
    before = whole(learner)
    accumulate(learner, lessons(case.loss, 7))
    norm = learner.engine.drop()
    accumulate(other, lessons(case.loss, 7))
    assert math.isclose(other.engine.drop(), norm, rel_tol=1e-6) and norm > 0
    poisoned = lessons(case.loss, 3)
    poisoned[1].rollouts[0].logprobs[0] = math.nan  # in one process only
    assert "skipped" in take_step(learner, poisoned, 1e-3)
    accumulate(learner, lessons(case.loss, 3))
    learner.engine.backward(
        learner.forward(a_pack(learner), lambda hidden, head: hidden.sum() * head["weight"][0, 0] * math.inf)
    )
    assert not math.isfinite(learner.engine.step(1e-3))
    assert equal(before, whole(learner))
    assert learn(learner, 2, 4) == learn(other, 2, 4)
    assert equal(whole(learner), whole(other))


def a_pack(learner: Learner) -> Pack:
    (batch, *_) = collate(lessons("dpo", 0), len, 1000, learner.player.device)
    return batch.pack


def check_sharded(case: Case) -> None:
    """Masters begin as the weights do; between forward passes, a process holds its part of each matrix of stage 3."""
    learner = pupil(case)
    model = random_model("llama", tie_word_embeddings=case.tied)
    assert equal(whole(learner), {f"{suffix}:{n}": p for suffix in ("", "_ema") for n, p in model.named_parameters()})
    learn(learner, 0, 1)
    matrices = [p for p in learner.player.model.parameters() if len(getattr(p, "ds_shape", ())) >= 2]
    assert (case.stage == 3) == bool(matrices) and all(p.numel() == 0 for p in matrices)
    held = sum(shard.numel() for shard in learner.engine.shards())
    weights = sum(weight.numel() for weight in whole(learner).values()) / 2
    assert weights <= held * collectives.world_size() < 1.1 * weights
    assert all(shard.dtype == torch.float32 for p in learner.policies.by_suffix.values() for shard in p.shards())
    dtypes = {p.dtype for p in learner.player.model.parameters()}
    assert dtypes == {getattr(torch, case.products)}


def check_lent_and_restored(case: Case, folder: Path) -> None:
    """An average computes in the policy's place, exactly as a player with its weights; a state goes on bit for bit."""
    learner = pupil(case)
    learn(learner, 0, 3)
    before, pack = whole(learner), a_pack(learner)
    (lent,) = reference_logps(learner.policies.ema, [pack])
    assert equal(before, whole(learner))
    plain = policy_of(random_model("llama", tie_word_embeddings=case.tied), getattr(torch, case.products))
    with torch.no_grad():
        for name, weight in plain.named_parameters().items():
            weight.copy_(before[f"_ema:{name}"])
    (expected,) = reference_logps(plain, [pack])
    (own,) = reference_logps(learner.policies.policy, [pack])
    exact = case.products == "float32"
    assert torch.allclose(lent, expected, atol=1e-6 if exact else 0.03)
    assert not exact or not torch.allclose(lent, own, atol=1e-3)

    save_file(learner.engine.state(), folder / f"state-{collectives.rank()}")
    parts = collectives.gather([folder / f"state-{collectives.rank()}"])  # and all are there
    again = pupil(case)
    for suffix, policy in again.policies.by_suffix.items():
        weights = {name.partition(":")[2]: w for name, w in before.items() if name.startswith(f"{suffix}:")}
        again.engine.take(policy.shards(), weights.items())
    again.engine.load_state(SavedState(parts))
    again.engine.refresh()
    assert equal(whole(again), before)
    assert learn(learner, 3, 5) == learn(again, 3, 5)
    assert equal(whole(learner), whole(again))


if __name__ == "__main__":
    torch.set_num_threads(1)
    collectives.start()
    zero.BUCKET, zero.SHARD = 2000, 3000  # as with real models, a matrix is larger than one, and shards are several
    folder, cases = Path(sys.argv[1]), [Case.read(text) for text in sys.argv[2:]]
    for case in cases:
        learner = pupil(case)
        learnt, weights = learn(learner), whole(learner)
        if collectives.rank() == 0:
            torch.save((learnt, weights), folder / str(case))
    for case in {(case.stage, case.products, case.offload): case for case in cases}.values():
        check_sharded(case)
        check_what_is_dropped_or_not_finite(case)
        check_lent_and_restored(case, folder)
    collectives.stop()
    leave(0)
