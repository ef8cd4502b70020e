"""Sampling from a chat server: a real one, on 127.0.0.1."""

import sys
import threading
import warnings

import pytest
from chatserver import ChatServer, chat_server
from helpers import records, run_tiny, torchrun

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.server import ServerSampler, check_server
from advgame.trainer.settings.schema import SamplingConfig, ServerConfig

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.8, max_new_tokens=5)


def complete(config, texts, sampling):
    return ServerSampler(config).sample([Request(text, ()) for text in texts], sampling)


def texts_of(rollouts):
    return [rollout and rollout.text for rollout in rollouts]


def test_answers_come_in_order_with_what_was_asked_for():
    with chat_server(str.upper) as server:
        rollouts = complete(server.config, [f"text {i}" for i in range(50)], SAMPLING)
        assert texts_of(rollouts) == [f"TEXT {i}" for i in range(50)]
        assert all(rollout.finished for rollout in rollouts)
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
        assert texts_of(complete(config, texts, SAMPLING)) == texts
        assert server.most_busy == 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_at_first_is_tried_again(status):
    with chat_server(lambda text: "well" if server.tries[text] == 3 else status) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert texts_of(complete(server.config, ["one", "two"], SAMPLING)) == ["well", "well"]
    assert server.tries == {"one": 3, "two": 3}


def test_what_fails_for_good_is_none_and_said():
    said = pytest.warns(UserWarning, match=r"2 of 3 requests failed; the last: .*not now")
    with chat_server(lambda text: {"bad": 500, "long": 400}.get(text, "well")) as server, said:
        assert texts_of(complete(server.config, ["long", "good", "bad"], SAMPLING)) == [None, "well", None]
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
        assert texts_of(complete(config, ["a"], SAMPLING)) == ["A"]
    assert len(server.requests) == 1


def test_what_is_wrong_with_a_server_is_said_before_any_work():
    with chat_server(str.upper) as server:
        good = server.config
        with pytest.raises(ConfigError, match=r"server.model=gpt: .* does not have it; it has judge-7b"):
            complete(ServerConfig(url=good.url, model="gpt"), ["a"], SAMPLING)
        with pytest.raises(ConfigError, match=r"does not list its models \(NotFoundError\); .* ends in /v1"):
            complete(ServerConfig(url=good.url.removesuffix("/v1"), model="judge-7b"), ["a"], SAMPLING)
        assert not server.requests
    with pytest.raises(ConfigError, match=r"judge.server.url=http://127.0.0.1:\d+/v1: cannot be reached"):
        check_server(good)
    with pytest.raises(ConfigError, match=r"server.url=http://a:b: .* expected http://HOST:PORT/v1"):
        check_server(ServerConfig(url="http://a:b", model="judge-7b"))


def test_an_answer_that_was_cut_off_is_not_finished():
    with chat_server(lambda text: "one two three four five six") as server:
        (rollout,) = complete(server.config, ["a"], SAMPLING)
    assert rollout.text == "one two three four five" and not rollout.finished


def test_an_answer_is_text_that_a_tokenizer_takes():
    with chat_server(lambda text: "a \ud800 b") as server:
        (rollout,) = complete(server.config, ["a"], SAMPLING)
    assert rollout.text == "a ? b"


def test_an_answer_that_is_none_is_none():
    with chat_server(lambda text: None) as server:
        assert complete(server.config, ["a"], SAMPLING) == [None]


def test_a_server_takes_no_weights():
    with pytest.raises(ValueError, match=r"judge.server.url=.*: its weights cannot be replaced"):
        ServerSampler(ServerConfig(model="judge-7b")).load([], version=1)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'advgame\[server\]'"):
        check_server(ServerConfig(model="judge-7b"))


def verdict(text: str) -> str:
    """The length of a candidate decides."""
    if "<response_A>" in text:
        a, b = (len(text.split(f"<response_{name}>")[1].split(f"</response_{name}>")[0]) for name in "AB")
        return f"<score_A>{a % 11}</score_A> <score_B>{b % 11}</score_B>"
    return "<answer>True</answer>"


def settings(server: ChatServer) -> list[str]:
    return ["judge.kind=server", "judge.server.model=judge-7b", f"judge.server.url={server.config.url}"]


def test_a_game_is_judged_by_a_server_that_every_process_asks_for_its_own_games(tmp_path):
    with chat_server(verdict) as alone:
        (line,) = records(run_tiny(tmp_path / "1", "steps=1", *settings(alone)))
    assert line["attacker"]["pairs"] and line["defender"]["pairs"]
    assert not {"bad_faith_judge", "bad_att_judge", "not_faithful"} & set(line["game"]["prompt_outcomes"])
    with chat_server(verdict) as shared:
        done = torchrun("--config", "tiny", f"output_dir={tmp_path / '2'}", "steps=1", *settings(shared), processes=2)
    assert done.returncode == 0, done.stderr
    one, two = (sorted(r["messages"][0]["content"] for r in server.requests) for server in (alone, shared))
    assert one == two


def test_what_the_judge_does_not_answer_has_no_score(tmp_path):
    failing = pytest.warns(UserWarning, match="requests failed")
    with chat_server(lambda text: 500 if "<response_A>" in text else verdict(text)) as server, failing:
        (line,) = records(run_tiny(tmp_path, "steps=1", *settings(server)))
    assert line["game"]["response_outcomes"]["bad_def_judge"] > 0
    assert "no_error" not in line["game"]["response_outcomes"] and line["defender"]["pairs"] == 0


def test_without_a_server_nothing_is_begun(tmp_path):
    with chat_server(verdict) as server:
        pass
    with pytest.raises(ConfigError, match="cannot be reached"):
        run_tiny(tmp_path / "run", *settings(server))
    assert not (tmp_path / "run").exists()
