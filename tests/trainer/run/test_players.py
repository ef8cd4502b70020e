"""The players of a run, and the weights that their samplers get."""

import pytest
from helpers import tiny_config

from advgame.trainer.base.clock import Clock
from advgame.trainer.learn.step import learn
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.players import refresh, set_up
from advgame.trainer.run.preflight import preflight

PAIRS = [Pair(*(Rollout([4, 5], ids, [-1.0] * len(ids), "", True) for ids in ([5, 6, 7], [8, 9])))]


@pytest.mark.parametrize("sample_from", ["ema", "policy"])
def test_samplers_get_the_weights_that_play(tmp_path, sample_from):
    """A copy of them, which training does not change until the next time."""
    config = tiny_config(tmp_path, f"defender.sample_from={sample_from}", "defender.reference=recompute")
    learners, match, _ = set_up(preflight(config), config, Clock())
    policies, request = learners[1].policies, Request("lock", (0,))
    before = match.defender.sample([request], config.defender.sampling)
    learn(learners[1], PAIRS, 0)
    assert match.defender.sample([request], config.defender.sampling) == before
    refresh(match, learners, 1, Clock())
    (rollout,) = match.defender.sample([request], config.defender.sampling)
    playing = policies.ema if sample_from == "ema" else policies.policy
    (expected,) = LocalSampler(playing, "defender").sample([request], config.defender.sampling)
    assert rollout.version == 1
    assert (rollout.token_ids, rollout.logprobs) == (expected.token_ids, expected.logprobs)
    assert rollout.logprobs != before[0].logprobs
