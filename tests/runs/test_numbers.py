"""Runs whose numbers are not finite: what is skipped, what is saved, and how they go on."""

import re
from pathlib import Path

import pytest
import torch
from helpers import MODELS, records, run_tiny, torchrun
from safetensors.torch import load_file

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.models.load import load_policy
from advgame.trainer.run import checkpoint

NO_DECAY = ("attacker.optimizer.weight_decay=0", "steps_per_batch=1")


def broken_model(folder: Path, up: float, down: float) -> str:
    """The tiny model, with an MLP whose two halves are scaled."""
    policy = load_policy("tiny")
    with torch.no_grad():
        policy.model.model.layers[0].mlp.up_proj.weight.mul_(up)
        policy.model.model.layers[0].mlp.down_proj.weight.mul_(down)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return str(folder)


def check_whole(run: Path, step: int) -> None:
    """All models of the checkpoint are finite."""
    for name in MODELS:
        weights = load_file(checkpoint.folder(run, step) / name / "model.safetensors")
        assert weights and all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("lr", ["10", "1e3", "1e5", "1e10", "1e30", "1e39"])
def test_weights_that_a_step_has_ruined_are_not_saved_and_the_run_goes_on_with_a_lower_rate(tmp_path, lr):
    """Whatever the rate, the loss and the gradient of the ruinous step are finite."""
    run, untouched = tmp_path / "run", tmp_path / "untouched"
    for folder in (run, untouched):
        run_tiny(folder, *NO_DECAY, "steps=2", "checkpoint.every=1")
    with pytest.raises(FloatingPointError) as caught:
        run_tiny(run, *NO_DECAY, "steps=6", "checkpoint.every=1", f"attacker.optimizer.lr={lr}")
    newest = checkpoint.finished(run)[-1]
    said = rf"the weights after step {newest + 1} are broken and are not saved: attacker.*: .*step-{newest:06d}, lower "
    assert re.match(said, str(caught.value)) and "\n" not in str(caught.value)
    check_whole(run, newest)
    run_tiny(run, *NO_DECAY, "steps=4")
    run_tiny(untouched, *NO_DECAY, "steps=4")
    healthy, expected = records(run), records(untouched)
    if newest == 2:  # else steps without pairs were taken at the other rate
        assert healthy == expected
    assert "loss" in healthy[-1]["attacker"] or healthy[-1]["attacker"]["pairs"] == 0
    check_whole(run, 4)


def test_steps_are_skipped_and_counted_until_there_are_too_many(tmp_path, capsys):
    """The model plays well, but the square of its gradient overflows."""
    model = broken_model(tmp_path / "model", 1e25, 1e-25)
    options = ("attacker.samples=8", "attacker.sampling.max_new_tokens=30", "alarms.skipped_steps=3", "seed=1")
    with pytest.raises(FloatingPointError) as caught:
        run_tiny(tmp_path / "run", f"attacker.model={model}", *options)
    told = "the attacker's last 3 steps had to be skipped. Nothing has been saved: lower optimizer.lr of the player"
    assert str(caught.value) == f"{told}, or look for broken weights in {model} or tiny."
    lines = records(tmp_path / "run")
    skipped = [line for line in lines if "skipped" in line["attacker"]]
    assert len(skipped) == 3 and skipped[-1] is lines[-1]
    for line in skipped:
        assert re.fullmatch("gradient norm (inf|nan)", line["attacker"]["skipped"])
        assert line["attacker"].keys() == {"pairs", "lr", "skipped", "left_out"}
        assert line["alarms"] == [f"the attacker's step is skipped: {line['attacker']['skipped']}"]
    assert capsys.readouterr().out.count("alarm at step") == 3
    assert not any((tmp_path / "run" / "checkpoints").iterdir())


def test_skipped_steps_are_the_same_in_a_resumed_run_and_the_other_player_goes_on(tmp_path):
    model = broken_model(tmp_path / "model", 1e25, 1e-25)
    samples = (f"attacker.model={model}", "attacker.samples=8", "attacker.sampling.max_new_tokens=30", "seed=1")
    options = (*samples, "alarms.skipped_steps=3", "checkpoint.every=1")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    for run, stops in ((whole, [10]), (resumed, [2, 10])):
        for stop in stops:
            try:
                run_tiny(run, *options, f"steps={stop}")
            except FloatingPointError:
                assert stop == 10
    assert records(whole) == records(resumed)
    assert sum("skipped" in line["attacker"] for line in records(whole)) == 3
    assert any("loss" in line["defender"] for line in records(whole))


def test_a_model_without_finite_log_probs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"model .*: its log-probs are not finite, so its weights are broken"):
        run_tiny(tmp_path / "run", f"attacker.model={broken_model(tmp_path / 'model', 1e38, 1e38)}")


@pytest.mark.slow
def test_a_spike_is_skipped_and_a_resumed_run_skips_the_same(tmp_path):
    """With a ratio of 1, about half of the losses are above their median."""
    options = ("steps=30", "attacker.optimizer.max_loss_ratio=1", "alarms.skipped_steps=100", "steps_per_batch=1")
    whole = records(run_tiny(tmp_path / "whole", *options))
    reasons = [line["attacker"]["skipped"] for line in whole if "skipped" in line["attacker"]]
    assert reasons and all(re.fullmatch(r"loss \S+, of at most \S+ by max_loss_ratio", reason) for reason in reasons)
    first = next(line["step"] for line in whole if "skipped" in line["attacker"])
    assert sum("loss" in line["attacker"] for line in whole[: first - 1]) >= 10
    for stop in (first - 1, first + 1):
        run = run_tiny(tmp_path / str(stop), *options, f"steps={stop}")
        assert records(run_tiny(run, *options)) == whole


def test_two_processes_stop_alike_with_one_line(tmp_path):
    options = (*NO_DECAY, "attacker.optimizer.lr=1e3", "checkpoint.every=1", f"output_dir={tmp_path / 'run'}")
    done = torchrun("--config", "tiny", *options, processes=2)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and re.match(r"error: the weights after step \d+ are broken and are not saved", said[0])
