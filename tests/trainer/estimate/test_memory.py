"""Memory by closed forms, and by published ones."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.memory import memory
from advgame.trainer.estimate.plan import Plan, check_packs, plan
from advgame.trainer.estimate.shapes import Shape, read_shape
from advgame.trainer.settings.load import load_config
from advgame.trainer.settings.schema import Config

SEVEN = read_shape("Qwen2.5-7B", "attacker.model")
SHAPES = {"attacker": SEVEN, "defender": SEVEN}


def planned(*overrides: str, gpus: int = 8, config: str = "recipes/qwen2.5-7b") -> Plan:
    return plan(load_config(config, ["engine=single", "zero.offload=none", *overrides]), SHAPES, gpus, cuda=True)


@pytest.mark.parametrize(("stage", "gpus"), [(1, 8), (2, 8), (3, 8), (3, 64)])
def test_zero_shares_out_what_its_paper_says(stage, gpus):
    """arXiv 1910.02054: masters and Adam from stage 1, gradients from 2, weights from 3; ours are summed in float32."""
    held = memory(planned("engine=zero", f"zero.stage={stage}", gpus=gpus)).held["attacker"]
    n, share = SEVEN.parameters, SEVEN.parameters / gpus
    assert held["float32 masters"] == held["averages"] == 4 * share
    assert held["Adam"] == 8 * share
    assert held["weights"] == 2 * (share if stage == 3 else n)
    assert held["gradients"] == {1: 4 * n, 2: 0, 3: 4 * share}[stage]  # under stage 2 they come and go


def test_stage_0_is_engine_single():
    assert memory(planned("engine=zero", "zero.stage=0")) == memory(planned())


def test_a_frozen_player_is_not_shared_out():
    alone, shared = (
        memory(planned(f"engine={e}", "attacker.train=false")).held["attacker"] for e in ("single", "zero")
    )
    assert alone == shared


def test_a_model_is_loaded_whole_before_it_is_shared_out():
    found = memory(planned("engine=zero", gpus=1024))
    assert found.loading["the defender, whole"] == 6 * SEVEN.parameters  # in float32, and cast
    assert found.peak_moment == "the defender is loaded" and found.peak == sum(found.loading.values())


def test_single_holds_twenty_bytes_a_parameter_and_a_player():
    found = memory(planned())
    for parts in found.held.values():
        assert sum(parts.values()) == (4 + 8 + 4 + 2) * SEVEN.parameters  # and gradients, when it learns
    assert found.moments["the defender learns"]["gradients"] == 4 * SEVEN.parameters


def test_a_frozen_player_has_no_optimiser():
    found = memory(planned("attacker.train=false"))
    assert found.held["attacker"]["Adam"] == 0
    assert "the attacker learns" not in found.moments


def test_a_slow_average_is_one_more():
    slow = memory(planned("attacker.reference_decay=0.9", "attacker.reference=recompute")).held["attacker"]
    assert slow["averages"] == 8 * SEVEN.parameters


def test_adapters_over_one_model_hold_it_once():
    found = memory(planned(config="recipes/qwen2.5-7b-lora", gpus=1))
    assert found.held["both"] == {"frozen model": 4 * SEVEN.parameters}
    assert found.held["attacker"]["weights"] == 4 * SEVEN.adapter(32)
    apart = memory(planned("attacker.model=models/Qwen2.5-7B-other", config="recipes/qwen2.5-7b-lora", gpus=1))
    assert apart.always - found.always == 4 * SEVEN.parameters


def test_keys_and_values_by_their_closed_form():
    """Two numbers a layer, key head, dimension and token; the last sample token is not cached."""
    plan = planned("defender.sampling.max_new_tokens=2049", "attacker.sampling.max_new_tokens=2048", gpus=32)
    load = plan.defender.sampling
    assert (load.prompts, load.samples, load.slots, load.in_cache) == (2, 4, 4, 2)
    tokens = 2 * (2048 + 64) + 4 * 2048 + 16  # and a spare block
    cache = memory(plan).moments["the defender samples"]["key-value cache"]
    assert cache == 2 * 28 * 4 * 128 * tokens * 2


def test_an_evaluation_has_more_in_the_cache_than_a_small_batch():
    """64 seeds on 8 GPUs: each has 8, shown as the attacker asks, as it asked at first, as they are, and wrapped."""
    assert planned().defender.evaluation is None
    measured = ("eval.every=1", "eval.seeds=[seeds.jsonl]")
    evaluation = planned(*measured).defender.evaluation
    assert (evaluation.prompts, evaluation.samples, evaluation.slots) == (24, 24, 24)
    found = memory(planned(*measured, "eval.wrappings=[wrappings.jsonl]"))
    parts = [found.moments[f"the defender {verb}"]["key-value cache"] for verb in ("plays in an evaluation", "samples")]
    assert parts[0] > parts[1]
    everything = planned(*measured, "eval.limit=null", "defender.sampling.batch_size=4").defender.evaluation
    assert (everything.prompts, everything.slots, everything.in_cache) == (16, 4, 16)
    assert planned(*measured).attacker.evaluation.prompts == 8


def test_a_tied_head_is_copied_by_the_sampler():
    tied = replace(SEVEN, tied=True, parameters=SEVEN.parameters - SEVEN.head)
    both = [memory(replace_shape(planned(), shape)).held["attacker"]["sampler's copy"] for shape in (SEVEN, tied)]
    assert both[0] == both[1]


def replace_shape(plan: Plan, shape: Shape) -> Plan:
    return replace(plan, attacker=replace(plan.attacker, shape=shape))


def test_offload_moves_what_waits_to_the_host():
    kept, optimizer, idle = (
        memory(planned("engine=zero", f"zero.offload={kind}")) for kind in ("none", "optimizer", "idle_player")
    )
    shard = SEVEN.parameters / 8
    assert kept.always - idle.always == pytest.approx(2 * 16 * shard)  # masters, Adam, averages
    assert kept.always - optimizer.always == pytest.approx(2 * 20 * shard)  # gradients as well
    assert sum(idle.host.values()) == pytest.approx(2 * 16 * shard)
    assert sum(optimizer.host.values()) == pytest.approx(2 * 24 * shard)


configs = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([1, 2, 8, 64]),
        "stage": st.integers(1, 3),
        "checkpointed": st.booleans(),
        "rank": st.sampled_from([0, 8]),
    }
)


@given(configs)
def test_more_sharding_more_gpus_and_less_kept_never_take_more(drawn):
    def peak(**changes: int) -> float:
        of = drawn | changes
        config = Config(batch_size=64)
        for player in (config.attacker, config.defender):
            player.model, player.lora.rank = "models/Qwen2.5-7B", of["rank"]
            player.optimizer.checkpoint_activations = bool(of["checkpointed"])
        config.engine, config.zero.stage = "zero", of["stage"]
        return memory(plan(config, SHAPES, of["gpus"], cuda=True)).always

    assert peak(stage=2) <= peak(stage=1)
    assert peak(gpus=128) <= peak()


def test_a_pack_that_is_too_small_names_its_setting():
    config = load_config("recipes/qwen2.5-7b", ["attacker.optimizer.tokens_per_pack=2048"])
    with pytest.raises(ConfigError, match=r"attacker.optimizer.tokens_per_pack=2048: .* set tokens_per_pack to 4478"):
        check_packs(config)
    config.attacker.optimizer.tokens_per_pack = 4478
    check_packs(config)
    assert plan(config, SHAPES, 8, cuda=True).attacker.learning.tokens == 4478
