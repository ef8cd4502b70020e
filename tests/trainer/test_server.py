"""Completion by a chat server: a real one, on 127.0.0.1."""

import sys
import threading
import warnings

import pytest
from chatserver import chat_server

from advgame.trainer.config import ConfigError, SamplingConfig, ServerConfig
from advgame.trainer.server import check_server, complete

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.8, max_new_tokens=5)


def test_answers_come_in_order_with_what_was_asked_for():
    with chat_server(str.upper) as server:
        assert complete(server.config, [f"text {i}" for i in range(50)], SAMPLING) == [f"TEXT {i}" for i in range(50)]
        assert complete(server.config, [], SAMPLING) == []
    assert len(server.requests) == 50
    for request in server.requests:
        (turn,) = request.pop("messages")
        assert turn["role"] == "user"
        assert request == {"model": "judge-7b", "temperature": 0.7, "top_p": 0.8, "max_tokens": 5}


def test_so_many_at_a_time_and_no_more():
    together = threading.Barrier(4)

    def answer(text: str) -> str:
        together.wait(timeout=10)  # breaks, and answers nothing, unless four are here at once
        return text

    with chat_server(answer) as server:
        config = server.config
        config.concurrency = 4
        texts = [str(i) for i in range(12)]
        assert complete(config, texts, SAMPLING) == texts
        assert server.most_busy == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_at_first_is_tried_again(status):
    with chat_server(lambda text: "well" if server.tries[text] == 3 else status) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert complete(server.config, ["one", "two"], SAMPLING) == ["well", "well"]
    assert server.tries == {"one": 3, "two": 3}


def test_what_fails_for_good_is_none_and_said():
    said = pytest.warns(UserWarning, match=r"2 of 3 requests failed; the last: .*not now")
    with chat_server(lambda text: {"bad": 500, "long": 400}.get(text, "well")) as server, said:
        assert complete(server.config, ["long", "good", "bad"], SAMPLING) == [None, "well", None]
    assert server.tries == {"long": 1, "good": 1, "bad": 3}


def test_the_key_comes_from_the_environment_variable_that_is_named(monkeypatch):
    with chat_server(str.upper) as server:
        server.key, config = "secret", server.config
        config.api_key_env = "JUDGE_KEY"
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with pytest.raises(ConfigError, match=r"server.api_key_env=JUDGE_KEY: .* is not set"):
            complete(config, ["a"], SAMPLING)
        monkeypatch.setenv("JUDGE_KEY", "public")
        with pytest.raises(ConfigError, match=r"server.api_key_env=JUDGE_KEY: .* is not accepted"):
            check_server(config)
        monkeypatch.setenv("JUDGE_KEY", "secret")
        assert complete(config, ["a"], SAMPLING) == ["A"]
    assert len(server.requests) == 1


def test_what_is_wrong_with_a_server_is_said_before_any_work():
    with chat_server(str.upper) as server:
        good = server.config
        with pytest.raises(ConfigError, match=r"server.model=gpt: .* does not have it; it has judge-7b"):
            complete(ServerConfig(url=good.url, model="gpt"), ["a"], SAMPLING)
        with pytest.raises(ConfigError, match=r"does not list its models \(NotFoundError\); .* ends in /v1"):
            complete(ServerConfig(url=good.url.removesuffix("/v1"), model="judge-7b"), ["a"], SAMPLING)
        assert not server.requests
    with pytest.raises(ConfigError, match=r"server.url=http://127.0.0.1:\d+/v1: cannot be reached"):
        check_server(good)
    with pytest.raises(ConfigError, match=r"server.url=http://a:b: .* expected http://HOST:PORT/v1"):
        check_server(ServerConfig(url="http://a:b", model="judge-7b"))


def test_an_answer_that_is_none_is_none():
    with chat_server(lambda text: None) as server:
        assert complete(server.config, ["a"], SAMPLING) == [None]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'advgame\[server\]'"):
        check_server(ServerConfig(model="judge-7b"))
