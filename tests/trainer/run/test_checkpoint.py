"""Checkpoints: what they keep, how they are found, and what is refused; whole runs are in tests/runs."""

import json
from pathlib import Path

import pytest
import torch
from helpers import records, run_tiny, tiny_config

from advgame.trainer.base.checksums import write_manifest
from advgame.trainer.base.errors import ConfigError
from advgame.trainer.learn.step import Learner, learn, make_learner
from advgame.trainer.records import Attack, Game, Pair, Parsed, Response, Rollout, Seed, Verdict
from advgame.trainer.run import checkpoint
from advgame.trainer.run.players import load_policies


def rollout(*ids: int) -> Rollout:
    return Rollout([4, 5], list(ids), [-1.0] * len(ids), "text", True, version=3)


PAIRS = [Pair(rollout(5, 6, 7), rollout(8, 9))]
GAME = Game(
    Seed("a query", "benign", {"language": "de"}),
    (Attack(rollout(1), Parsed("thought", "text"), Verdict.FAITHFUL, (Response(rollout(2), None, reward=-1.0),)),),
)


def learners(config, saved=None) -> list[Learner]:
    policies = load_policies(config, saved)
    return [make_learner(name, policies[name], getattr(config, name)) for name in policies]


def taught(config) -> list[Learner]:
    players = learners(config)
    for player in players:
        learn(player, PAIRS, 0)
    return players


def parameters(player: Learner) -> list[torch.Tensor]:
    return [p.detach() for policy in player.policies.by_suffix.values() for p in policy.named_parameters().values()]


def test_everything_that_the_next_step_depends_on_comes_back(tmp_path):
    config = tiny_config(tmp_path, "defender.reference=recompute", "defender.reference_decay=0.5")
    players = taught(config)
    folder = checkpoint.save(tmp_path, 1, players, [GAME], config)
    assert (folder / "defender_reference").is_dir() and not (folder / "attacker_reference").exists()
    again = learners(config, folder)
    assert checkpoint.load(folder, again) == [GAME]
    for player, other in zip(players, again, strict=True):
        assert all(map(torch.equal, parameters(player), parameters(other)))
        state, other_state = player.engine.state(), other.engine.state()
        assert state.keys() == other_state.keys() and all(torch.equal(state[key], other_state[key]) for key in state)
        learn(player, PAIRS, 1)
        learn(other, PAIRS, 1)
        assert all(map(torch.equal, parameters(player), parameters(other)))


def test_the_newest_are_kept(tmp_path):
    config = tiny_config(tmp_path)
    players = learners(config)
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, players, [], config)
    assert checkpoint.finished(tmp_path) == [2, 10]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000002", "step-000010"]


def test_a_checkpoint_is_found_by_its_run_or_its_folder(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    with pytest.raises(ConfigError, match="not a run's folder"):
        checkpoint.locate(tmp_path)
    checkpoint.begin(tmp_path, 0, config)
    with pytest.raises(ConfigError, match="no checkpoint has been written yet"):
        checkpoint.locate(tmp_path)
    players = learners(config)
    for step in (3, 7):
        checkpoint.save(tmp_path, step, players, [], config)
    assert checkpoint.locate(tmp_path) == (tmp_path, 7)
    assert checkpoint.locate(tmp_path, 3) == (tmp_path, 3)
    assert checkpoint.locate(checkpoint.folder(tmp_path, 3)) == (tmp_path, 3)
    monkeypatch.chdir(checkpoint.folder(tmp_path, 3))
    assert checkpoint.locate(checkpoint.folder(tmp_path, 3).relative_to(checkpoint.folder(tmp_path, 3)))[1] == 3
    for path, step, message in (
        (tmp_path, 4, "no checkpoint after step 4; there are 3, 7"),
        (checkpoint.folder(tmp_path, 3), 7, "is one checkpoint; name its run"),
        (tmp_path / "checkpoints" / "other", None, "not a checkpoint"),
    ):
        with pytest.raises(ConfigError, match=message):
            checkpoint.locate(path, step)


def test_a_run_continues_under_the_same_settings_only(tmp_path):
    config = tiny_config(tmp_path)
    saved = checkpoint.save(tmp_path, 1, learners(config), [], config)
    assert checkpoint.resume(tmp_path, tiny_config(tmp_path, "steps=99", "attacker.optimizer.lr=1")) == 1
    with pytest.raises(ConfigError, match=r"seed=1: the run in .* was started with seed=0; set it back"):
        checkpoint.resume(tmp_path, tiny_config(tmp_path, "seed=1"))
    edit(saved, format=99)
    with pytest.raises(ConfigError, match=r"was written by another version of advgame .format 99"):
        checkpoint.resume(tmp_path, config)
    (saved / "SHA256SUMS").unlink()  # the first versions had none
    (saved / "state.json").write_text('{"step": 1, "games": []}')
    with pytest.raises(ConfigError, match=r"was written by another version of advgame .format 1"):
        checkpoint.resume(tmp_path, config)


def edit(saved: Path, **changes) -> None:
    """Changes state.json by hand, and its checksum too."""
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | changes))
    write_manifest(saved)


def test_a_checkpoint_of_another_step_is_damaged(tmp_path):
    config = tiny_config(tmp_path)
    saved = checkpoint.save(tmp_path, 1, learners(config), [], config)
    edit(saved, step=2)
    with pytest.raises(
        ConfigError, match=r"state.json is not the state of step-000001, and there is no other checkpoint"
    ):
        checkpoint.resume(tmp_path, config)


def test_a_run_goes_on_whatever_its_settings_spell_out(tmp_path):
    instruction = "defender.instruction='${oc.env:HOME} <end_0> ${'"
    run_tiny(tmp_path, instruction, "steps=1", "steps_per_batch=1")
    run_tiny(tmp_path, instruction, "steps=2", "steps_per_batch=1")
    assert [line["step"] for line in records(tmp_path)] == [1, 2]
    with pytest.raises(
        ConfigError, match=r"defender\.instruction=another: .* started with .*=\$\{oc\.env:HOME\} <end_0>"
    ):
        run_tiny(tmp_path, "defender.instruction=another", "steps=3", "steps_per_batch=1")
