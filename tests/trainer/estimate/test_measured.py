"""The prediction against what processes take: two players of 10 million parameters learn and sample on a processor."""

from pathlib import Path

import pytest
from helpers import needs_deepspeed
from scale import footprints, make_model, settings

from advgame.trainer.estimate.memory import memory
from advgame.trainer.estimate.plan import plan, shapes_of
from advgame.trainer.estimate.work import traffic
from advgame.trainer.settings.load import load_config


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_model("10M", tmp_path_factory.mktemp("models"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "stage", "more"),
    [
        (1, 0, ()),
        (1, 0, ("attacker.optimizer.checkpoint_activations=true", "defender.optimizer.checkpoint_activations=true")),
        pytest.param(2, 2, (), marks=needs_deepspeed),
        pytest.param(2, 3, (), marks=needs_deepspeed),
    ],
)
def test_a_step_takes_what_is_predicted(ranks, stage, more, model):
    """Memory within 10%, in float32, and traffic. Packs are full: three attacks' groups, and four responses' groups."""
    overrides = [*settings(model, stage), *more]
    config = load_config("tiny", overrides)
    planned = plan(config, shapes_of(config), ranks, cuda=False)
    predicted = memory(planned)
    measured = footprints(overrides, ranks)[0]
    held, peaks = measured["memory"].pop("held"), measured["memory"]
    assert predicted.always == pytest.approx(held, rel=0.1)
    for name, player in planned.players.items():
        moment, sent = f"the {name} learns", traffic(player, planned)
        assert predicted.peaks[moment] == pytest.approx(held + peaks[moment], rel=0.1)
        assert sent.gradients + sent.weights == pytest.approx(measured["sent"][moment], rel=0.01)
        assert sent.refill + sent.compared == pytest.approx(
            measured["sent"][f"the {name}'s sampler is filled"], rel=0.01
        )
