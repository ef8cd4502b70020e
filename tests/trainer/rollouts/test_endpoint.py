"""A server that misbehaves: it takes no time, no memory and no secret."""

import time
import warnings

import pytest
from chatserver import chat_server, drips, echoes, never_ends, redirects

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.server import ServerSampler, check_server
from advgame.trainer.settings.schema import SamplingConfig

SAMPLING = SamplingConfig(max_new_tokens=5)
KEY = 'sk-a/very-secret"key'


def complete(config, *texts):
    rollouts = ServerSampler(config).sample([Request(text, ()) for text in texts], SAMPLING)
    return [rollout and rollout.text for rollout in rollouts]


def failing(message: str):
    return pytest.warns(UserWarning, match=message)


@pytest.mark.parametrize("page", ["models", "chat"])
def test_the_time_limit_is_of_the_whole_request(page):
    with chat_server(lambda text: drips if page == "chat" else "well") as server:
        server.models = drips if page == "models" else None
        config, began = server.config, time.monotonic()
        config.timeout = 1
        with pytest.raises(ConfigError, match=r"no answer within 1 s"):
            check_server(config, SAMPLING, "a")
        assert time.monotonic() - began < 10  # what drips would take 1,000 s


@pytest.mark.parametrize("page", ["models", "chat"])
def test_an_answer_has_a_size_limit(page):
    with chat_server(lambda text: never_ends if page == "chat" else "well") as server:
        server.models = never_ends if page == "models" else None
        with pytest.raises(ConfigError, match=r"an answer of more than 16 MiB"):
            check_server(server.config, SAMPLING, "a")


@pytest.mark.parametrize("page", ["models", "chat"])
def test_nobody_is_sent_elsewhere(page):
    with chat_server(str.upper) as elsewhere:
        redirect = redirects(elsewhere.config.url + "/models")
        with chat_server(lambda text: redirect if page == "chat" else "well") as server:
            server.models = redirect if page == "models" else None
            with pytest.raises(ConfigError, match=rf"status 307: a redirect to {elsewhere.config.url}"):
                check_server(server.config, SAMPLING, "a")
    assert not elsewhere.requests


def test_what_is_no_answer_is_none_at_once_and_its_share_is_told():
    answers = {
        "refused": 400,
        "none": None,
        "a page": lambda handler: handler.send(200, "<html>"),
        "a list": lambda handler: handler.send(200, "[1]"),
        "a number": lambda handler: handler.send(200, '{"choices": [1]}'),
        "no choice": lambda handler: handler.send(200, '{"choices": []}'),
        "deep": lambda handler: handler.send(200, "[" * 100_000),
        "packed": lambda handler: handler.send(200, "{}", Content_Encoding="gzip"),
        "good": "well",
    }
    with chat_server(answers.get) as server, failing(r"^alarm: .* 8 of 9 requests failed \(89%\); the last: an answer"):
        assert complete(server.config, *answers) == [None] * 8 + ["well"]
    assert set(server.tries.values()) == {1}


def test_few_failures_are_told_without_an_alarm():
    with chat_server(lambda text: 400 if text == "7" else text) as server, failing(r"^http:.* 1 of 40 requests failed"):
        assert complete(server.config, *map(str, range(40))).count(None) == 1


def test_nothing_that_a_server_says_harms_a_terminal():
    hostile = lambda handler: handler.send(400, {"error": {"message": "\x1b[2J\nowned" + "a" * 10_000}})  # noqa: E731
    with chat_server(lambda _: hostile) as server, pytest.raises(ConfigError) as caught:
        check_server(server.config, SAMPLING, "a")
    assert r"\x1b[2J owned" in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("status", [200, 400, 401, 418, 500])
def test_a_key_is_never_repeated(status, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with chat_server(lambda _: echoes(status)) as server, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        server.key, config = KEY, server.config
        config.api_key_env = "JUDGE_KEY"
        if status == 200:
            assert complete(config, "a") == ["your key is ***, is it?"]
            return
        with pytest.raises(ConfigError, match=r"your key is \*\*\*, is it") as caught:
            check_server(config, SAMPLING, "a")
        if status == 400:
            assert complete(config, "a") == [None]
        server.models = echoes(status)
        with pytest.raises(ConfigError) as also:
            check_server(config, SAMPLING, "a")
    for text in (str(caught.value), str(also.value), *(str(warning.message) for warning in told)):
        assert "very-secret" not in text
    assert bool(told) == (status == 400)
