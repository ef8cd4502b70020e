"""The players of a run, and the weights that their samplers get."""

import copy

import pytest
import torch
from helpers import tiny_config

from advgame.trainer.base.clock import Clock
from advgame.trainer.game.play import Match
from advgame.trainer.learn.step import learn
from advgame.trainer.models.policy import Policy
from advgame.trainer.records import Pair, Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.run.players import refresh, set_up
from advgame.trainer.run.preflight import preflight

PAIRS = [Pair(*(Rollout([4, 5], ids, [-1.0] * len(ids), "", True) for ids in ([5, 6, 7], [8, 9])))]


@pytest.mark.parametrize("sample_from", ["ema", "policy"])
def test_samplers_with_weights_of_their_own_get_those_that_play(tmp_path, sample_from):
    """As an engine for sampling has them, which shares nothing with what is trained."""
    config = tiny_config(tmp_path, f"defender.sample_from={sample_from}", "defender.reference=recompute")
    learners, match, _ = set_up(preflight(config), config, Clock())
    policies = learners[1].policies
    apart = LocalSampler(Policy(copy.deepcopy(policies.policy.model), policies.policy.tokenizer), "defender")
    match = Match(match.attacker, apart, match.rules)
    learn(learners[1], PAIRS, 0)
    refresh(match, learners, 1)
    playing = policies.ema if sample_from == "ema" else policies.policy
    own, wanted = apart.policy.named_parameters(), playing.named_parameters()
    assert all(torch.equal(own[name], wanted[name]) for name in wanted)
    (rollout,) = apart.sample([Request("lock", (0,))], config.defender.sampling)
    assert rollout.version == 1
