"""A server that is away is waited for; a request that it always fails is given up."""

import threading
import warnings

import pytest
from chatserver import chat_server, drips, is_busy

from advgame.trainer.base.errors import Outage
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.patience import TRIES
from advgame.trainer.rollouts.server import ServerSampler
from advgame.trainer.settings.schema import SamplingConfig

SECONDS = 1 / 60
"""In minutes."""


def complete(config, *texts):
    rollouts = ServerSampler(config).sample([Request(text, ()) for text in texts], SamplingConfig(max_new_tokens=5))
    return [rollout and rollout.text for rollout in rollouts]


@pytest.mark.parametrize("failure", [408, 429, 500, 503, 401, 404, is_busy, lambda handler: None])
def test_what_fails_at_first_is_tried_again(failure):
    """The last failure hangs up without a word."""

    def answer(text):
        return "well" if text == "Hello" or server.tries[text] == 3 else failure

    with chat_server(answer) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert complete(server.config, "one", "two") == ["well", "well"]
    assert server.tries["one"] == server.tries["two"] == 3


@pytest.mark.parametrize("failure", [500, drips])
def test_a_request_that_always_fails_while_others_are_answered_is_given_up(failure):
    with (
        chat_server(lambda text: failure if text == "bad" else "well") as server,
        pytest.warns(
            UserWarning, match=r"alarm: .* 1 of 3 requests failed \(33%\); the last: (status 500|no answer within)"
        ),
    ):
        config = server.config
        config.timeout = 1
        assert complete(config, "good", "bad", "fine") == ["well", None, "well"]
    assert server.tries["bad"] == TRIES and server.tries["good"] == 1


def test_a_busy_server_is_not_a_requests_fault():
    """Two are answered at a time, and the others turned away."""
    at_work = threading.Semaphore(2)

    def answer(text):
        if not at_work.acquire(blocking=False):
            return 429
        threading.Event().wait(0.05)
        at_work.release()
        return text

    texts = [f"text {i}" for i in range(40)]
    with chat_server(answer) as server:
        assert complete(server.config, *texts) == texts
    assert max(server.tries.values()) > 1


def test_a_server_that_is_away_is_waited_for():
    """It is killed in the middle of the work."""

    def answer(text):
        if text == "text 20" and server.tries[text] == 1:
            server.leave_for(4)
        return text.upper()

    texts = [f"text {i}" for i in range(60)]
    with chat_server(answer) as server, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = server.config
        config.concurrency = 8
        assert complete(config, *texts) == [text.upper() for text in texts]
    said = [str(warning.message) for warning in told]
    assert len(said) == 2, said
    assert "it is waited for, judge.server.patience=30 (minutes)" in said[0] and "answers again, after" in said[1]


@pytest.mark.parametrize("away", ["dead", "failing", "hanging"])
def test_patience_has_an_end(away):
    with chat_server(lambda text: drips if away == "hanging" else 502) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = server.config
        config.patience, config.timeout = 2 * SECONDS, 1
        if away == "dead":
            server.leave()
        with pytest.raises(Outage, match=r"judge.server.url=http.*: no answer for \d s, longer than .*patience=0.0333"):
            complete(config, *map(str, range(100)))
