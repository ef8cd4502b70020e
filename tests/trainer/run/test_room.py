"""What is refused for want of memory before anything is loaded, and what is said after a run's first step."""

import pytest
from transformers import AutoConfig

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.estimate.cards import CARDS, Card
from advgame.trainer.estimate.predict import changed, predict
from advgame.trainer.estimate.shapes import KNOWN
from advgame.trainer.run import room
from advgame.trainer.run.room import MARGIN, check_room, compare, refusal, this_card
from advgame.trainer.run.train import train
from advgame.trainer.settings.load import load_config


@pytest.fixture
def seven(tmp_path):
    """The settings of a recipe, whose model is a folder without weights."""
    AutoConfig.for_model(**KNOWN["Qwen2.5-7B"]).save_pretrained(tmp_path)
    models = [f"{name}.model={tmp_path}" for name in ("attacker", "defender")]
    return load_config("recipes/qwen2.5-7b", [*models, "engine=single", "zero.offload=none"])


def test_what_cannot_fit_is_refused_with_settings_that_cure_it(seven):
    with pytest.raises(
        ConfigError, match=r"there is no room for this run: .* 80\.0 GB; set .*lora\.rank=32"
    ) as refused:
        check_room(seven, None, CARDS["h100-80"])
    (advice,) = [part for part in str(refused.value).split("set ") if "lora" in part]
    settings = dict(item.split("=") for item in advice.split(" (")[0].split())
    for name, value in settings.items():
        seven = changed(seven, {name: int(value) if value.isdigit() else value == "true"})
    assert check_room(seven, None, CARDS["h100-80"]) <= CARDS["h100-80"].memory


def test_more_processes_are_named_where_they_would_do(seven):
    found = predict(seven, dict.fromkeys(("attacker", "defender"), room.shape_here(seven, "attacker", None)), 1,
                    CARDS["h100-80"], 1.0)  # fmt: skip
    assert "set engine=zero and start 16 processes" in refusal(found, [(16, {"engine": "zero"})])


def test_only_far_too_little_is_refused(seven):
    peak = check_room(seven, None, Card(1e12, None))
    assert check_room(seven, None, Card(peak / MARGIN * 1.001, None)) == peak
    with pytest.raises(ConfigError, match="there is no room"):
        check_room(seven, None, Card(peak / MARGIN * 0.999, None))


def test_no_run_starts_without_room(tmp_path, monkeypatch):
    """Before its folder has anything in it."""
    monkeypatch.setattr(room, "this_card", lambda: Card(1e5, None, cuda=False))
    with pytest.raises(ConfigError, match=r"there is no room for this run: .* take smaller models"):
        train(load_config("tiny", [f"output_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_machine_is_known():
    assert this_card().memory > 1e8


def test_a_first_step_is_compared_if_it_was_the_peak():
    found = compare(2**30, before=1)
    assert found["predicted_memory_gib"] == 1 and found["measured_memory_gib"] > 0
    assert compare(2**30, before=2**60) == {}
