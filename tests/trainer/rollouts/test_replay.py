"""Steps that are recorded once for each number of rows: the same code as on a GPU, with a record that runs the step."""

import pytest
import torch
from helpers import policy_of, random_model

from advgame.trainer.models.load import load_policy
from advgame.trainer.rollouts import local, replay
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.decoder import Decoder, Tokens
from advgame.trainer.rollouts.local import LocalSampler
from advgame.trainer.rollouts.replay import Replayed, filled_up, make_step, padded
from advgame.trainer.settings.schema import SamplingConfig


def test_samples_are_the_same(monkeypatch):
    """Slots empty one after the other, so that many numbers of rows occur; each is recorded once a wave."""
    recorded: list[int] = []

    def record(step, tokens):
        """Reads its tokens from the tensors that it was given first, as a graph does."""
        recorded.append(len(tokens.ids))
        return lambda: step(tokens)

    policy = load_policy("tiny")
    requests = [Request(f"How do I open {n} locks?", (n,)) for n in range(40)]
    sampling = SamplingConfig(max_new_tokens=30, batch_size=20)
    expected = LocalSampler(policy, "defender").sample(requests, sampling)
    with monkeypatch.context() as patch:
        plain = local.make_step
        patch.setattr(local, "make_step", lambda *args, spare: Replayed(plain(*args, spare=spare), spare, record))
        actual = LocalSampler(policy, "defender").sample(requests, sampling)
    assert [rollout.token_ids for rollout in actual] == [rollout.token_ids for rollout in expected]
    for a, e in zip(actual, expected, strict=True):
        assert a.logprobs == pytest.approx(e.logprobs, abs=1e-5)
    assert len(recorded) == len(set(recorded)) > 3 and max(recorded) == 32


def test_rows_are_filled_up():
    assert [padded(rows) for rows in (1, 2, 3, 5, 9, 16, 17, 32, 33)] == [1, 2, 4, 8, 16, 16, 32, 32, 48]
    tokens = Tokens(
        torch.tensor([7, 8]), torch.tensor([40, 41]), torch.tensor([5, 21]),
        torch.tensor([[(0, 3), (1, 6)], [(0, 3), (2, 6)]], dtype=torch.int32),
    )  # fmt: skip
    filled = filled_up(tokens, 5, spare=9)
    assert filled.ids.tolist() == [7, 8, 7, 7, 7] and filled.positions.tolist() == [40, 41, 40, 40, 40]
    assert filled.places.tolist() == [5, 21, 144, 145, 146]
    assert filled.sees[:2].equal(tokens.sees) and filled.sees[2:].tolist() == [[[9, 1], [0, 0]]] * 3


def test_where_steps_are_recorded(monkeypatch):
    """On a GPU, but for rotary embeddings that the host must wait for."""
    cache = None
    for scaling, name in ((None, "Replayed"), ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, "function")):
        options = {"rope_parameters": scaling} if scaling else {}
        decoder = Decoder(policy_of(random_model("llama", **options)).model, torch.float32)
        assert type(make_step(decoder, cache, spare=0)).__name__ == "function"
        monkeypatch.setattr(decoder, "device", torch.device("cuda"))
        assert type(make_step(decoder, cache, spare=0)).__name__ == name
    assert replay.rope_type(random_model("llama").config) == "default"
