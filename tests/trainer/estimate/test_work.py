"""FLOPs and traffic by closed forms."""

from dataclasses import replace

import pytest

from advgame.trainer.estimate.cards import CARDS
from advgame.trainer.estimate.plan import Plan, plan
from advgame.trainer.estimate.predict import predict
from advgame.trainer.estimate.shapes import read_shape
from advgame.trainer.estimate.work import traffic, work
from advgame.trainer.settings.load import load_config

SEVEN = read_shape("Qwen2.5-7B", "attacker.model")
SHAPES = {"attacker": SEVEN, "defender": SEVEN}


def planned(*overrides: str, gpus: int = 8) -> Plan:
    settings = ["engine=single", "zero.offload=none", *overrides]
    return plan(load_config("recipes/qwen2.5-7b", settings), SHAPES, gpus, cuda=True)


def test_learning_takes_six_flops_a_weight_and_token():
    """And two more where layers are computed again; attention and the LM head, which few tokens reach, come on top."""
    for again, factor in (("false", 6), ("true", 8)):
        plan = planned(f"attacker.optimizer.checkpoint_activations={again}")
        player = plan.attacker
        attention = 4 * player.learning.scores * SEVEN.layers * SEVEN.heads * SEVEN.width
        expected = factor * player.learning.tokens * SEVEN.matrices + factor / 2 * attention
        expected += 6 * player.learning.responses * SEVEN.head
        assert work(player, plan).learn_flops == pytest.approx(player.learning.packs * expected)


def test_a_frozen_player_learns_nothing_and_sends_nothing():
    plan = planned("attacker.train=false")
    assert work(plan.attacker, plan).learn_flops == 0
    assert traffic(plan.attacker, plan).gradients == 0


def test_one_gpu_sends_nothing():
    for engine in ("single", "zero"):
        plan = planned(f"engine={engine}", gpus=1)
        sent = traffic(plan.defender, plan)
        assert sent.gradients == sent.weights == sent.refill == sent.compared == 0


def test_zero_sends_what_its_paper_says():
    """arXiv 1910.02054, section 7: stage 3 sends 3 numbers a parameter, but those kept for the backward pass.

    The others send 1 more than in the paper: DeepSpeed takes all of a sum where a part would do.
    """
    ring = 7 / 8 * 2 * SEVEN.parameters
    kept = 1e9 / SEVEN.parameters
    for stage, numbers in ((1, 3), (2, 3), (3, 3 - kept)):
        plan = planned("engine=zero", f"zero.stage={stage}")
        player = replace(plan.attacker, learning=replace(plan.attacker.learning, packs=1))
        sent = traffic(player, plan)
        assert (sent.gradients + sent.weights) / ring == pytest.approx(numbers)


def test_time_scales_with_efficiency_and_turns_take_longer():
    config = load_config("recipes/qwen2.5-7b", ["engine=zero"])
    fast, slow = (predict(config, SHAPES, 8, CARDS["h100-80"], share).seconds for share in (0.8, 0.4))
    assert fast is not None and slow is not None
    assert slow.joint == pytest.approx(2 * fast.joint)
    assert slow.joint == pytest.approx(slow.sampling + slow.learning + slow.sending)
    assert slow.sequential > slow.joint


def test_shorter_samples_change_the_work_and_not_the_memory():
    config = load_config("recipes/qwen2.5-7b", [])
    longest, short = (predict(config, SHAPES, 8, CARDS["h100-80"], 0.4, tokens) for tokens in (None, 300))
    assert short.memory == longest.memory
    assert short.work["attacker"].decode_flops < longest.work["attacker"].decode_flops / 6
