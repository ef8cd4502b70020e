"""Sampling from a chat server: a real one, on 127.0.0.1, that does what it should."""

import sys
import threading

import pytest
from chatserver import chat_server, judged_by, verdict
from helpers import records, run_tiny, torchrun

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.server import JUDGE, TARGET, ServerSampler, check_server, filler
from advgame.trainer.settings.schema import SamplingConfig, ServerConfig

SAMPLING = SamplingConfig(temperature=0.7, top_p=0.8, max_new_tokens=5)
LONGEST = filler(300)


def complete(config, texts, sampling=SAMPLING):
    return ServerSampler(config).sample([Request(text, ()) for text in texts], sampling)


def texts_of(rollouts):
    return [rollout and rollout.text for rollout in rollouts]


def test_answers_come_in_order_with_what_was_asked_for():
    with chat_server(str.upper) as server:
        rollouts = complete(server.config, [f"text {i}" for i in range(50)])
        assert texts_of(rollouts) == [f"TEXT {i}" for i in range(50)]
        assert all(rollout.finished for rollout in rollouts)
        assert complete(server.config, []) == []
    assert len(server.requests) == 50
    for request in server.requests:
        (turn,) = request.pop("messages")
        assert turn["role"] == "user" and 0 <= request.pop("seed") < 2**31
        assert request == {"model": "judge-7b", "temperature": 0.7, "top_p": 0.8, "max_tokens": 5}


def test_a_requests_seed_is_that_of_its_text_and_key():
    def seeds(*requests):
        with chat_server(str.upper) as server:
            ServerSampler(server.config).sample([Request(*request) for request in requests], SAMPLING)
        return {request["messages"][0]["content"]: request["seed"] for request in server.requests}

    first = seeds(("a", (1,)), ("b", (1,)))
    assert first["a"] != first["b"] and seeds(("b", (1,)), ("c", (1,)))["b"] == first["b"]
    assert seeds(("a", (2,)))["a"] != first["a"]


def test_extra_fields_are_sent_and_null_leaves_a_field_out():
    with chat_server(str.upper) as server:
        server.refuses, config = ("seed", "top_p"), server.config
        with pytest.raises(ConfigError, match=r"supplied: seed; a field that .* judge.server.extra.seed=null"):
            check_server(config, SAMPLING, LONGEST)
        config.extra = {"seed": None, "top_p": None, "chat_template_kwargs": {"enable_thinking": False}}
        check_server(config, SAMPLING, LONGEST)
        assert texts_of(complete(config, ["a"])) == ["A"]
    assert server.requests[-1] | {"messages": 0} == {
        "model": "judge-7b",
        "messages": 0,
        "temperature": 0.7,
        "max_tokens": 5,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_so_many_at_a_time_and_no_more():
    together = threading.Barrier(4)

    def answer(text: str) -> str:
        together.wait(timeout=10)  # breaks, and answers nothing, unless four are here at once
        return text

    with chat_server(answer) as server:
        config = server.config
        config.concurrency = 4
        texts = [str(i) for i in range(12)]
        assert texts_of(complete(config, texts)) == texts
        assert server.most_busy == 4


def test_the_key_comes_from_the_environment_variable_that_is_named(monkeypatch):
    with chat_server(str.upper) as server:
        server.key, config = "secret", server.config
        config.api_key_env = "JUDGE_KEY"
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with pytest.raises(ConfigError, match=r"server.api_key_env=JUDGE_KEY: .* is not set"):
            check_server(config, SAMPLING, LONGEST)
        monkeypatch.setenv("JUDGE_KEY", "public")
        with pytest.raises(ConfigError, match=r"server.api_key_env=JUDGE_KEY: .* is not accepted"):
            check_server(config, SAMPLING, LONGEST)
        monkeypatch.setenv("JUDGE_KEY", "pub\nlic")
        with pytest.raises(ConfigError, match=r"server.api_key_env=JUDGE_KEY: the key in it has characters") as caught:
            check_server(config, SAMPLING, LONGEST)
        assert "lic" not in str(caught.value)
        monkeypatch.setenv("JUDGE_KEY", "secret\n")
        check_server(config, SAMPLING, LONGEST)
        assert texts_of(complete(config, ["a"])) == ["A"]
    assert len(server.requests) == 2


def test_what_is_wrong_with_a_server_is_said_before_any_work():
    with chat_server(str.upper) as server:
        good = server.config
        for names, model, url in (
            (JUDGE, "judge.server.model", "judge.server.url"),
            (TARGET, "--target-model", "--target"),
        ):
            with pytest.raises(ConfigError, match=rf"{model}=gpt: .* does not have it; it has judge-7b"):
                check_server(ServerConfig(url=good.url, model="gpt"), SAMPLING, LONGEST, names)
            without = ServerConfig(url=good.url.removesuffix("/v1"), model="judge-7b")
            with pytest.raises(ConfigError, match=rf"{url}=.*not list its models \(status 404: no such.* ends in /v1"):
                check_server(without, SAMPLING, LONGEST, names)
        assert not server.requests
    with pytest.raises(ConfigError, match=r"judge.server.url=http://127.0.0.1:\d+/v1: cannot be reached"):
        check_server(good, SAMPLING, LONGEST)


@pytest.mark.parametrize(
    "url", ["http://a:b", "ftp://a/v1", "127.0.0.1:8000", "http://", "http://[::1", f"http://{'a' * 70}/"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match=r"server.url=.*(expected http://HOST:PORT/v1|cannot be reached)"):
        check_server(ServerConfig(url=url, model="judge-7b"), SAMPLING, LONGEST)


def test_the_longest_prompt_is_sent_before_any_work_and_a_refusal_is_quoted():
    with chat_server(lambda text: 400 if len(text) > 1000 else "well") as server:
        with pytest.raises(
            ConfigError, match=r"the longest prompt, of 1499 characters, .*max_tokens=5, .* 400: not now"
        ):
            check_server(server.config, SAMPLING, LONGEST)
        check_server(server.config, SAMPLING, filler(100))
    assert [request["max_tokens"] for request in server.requests] == [5, 5]


def test_an_answer_that_was_cut_off_is_not_finished():
    with chat_server(lambda text: "one two three four five six") as server:
        (rollout,) = complete(server.config, ["a"])
    assert rollout.text == "one two three four five" and not rollout.finished


def test_an_answer_is_text_that_a_tokenizer_takes():
    with chat_server(lambda text: "a \ud800 b") as server:
        (rollout,) = complete(server.config, ["a"])
    assert rollout.text == "a ? b"


def test_a_server_takes_no_weights():
    with pytest.raises(ValueError, match=r"judge.server.url=.*: its weights cannot be replaced"):
        ServerSampler(ServerConfig(model="judge-7b")).load([], version=1)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigError, match=r"pip install 'advgame\[server\]'"):
        check_server(ServerConfig(model="judge-7b"), SAMPLING, LONGEST)


def test_a_game_is_judged_by_a_server_that_every_process_asks_for_its_own_games(tmp_path):
    with chat_server(verdict) as alone:
        (line,) = records(run_tiny(tmp_path / "1", "steps=1", *judged_by(alone)))
    assert line["attacker"]["pairs"] and line["defender"]["pairs"]
    assert not {"bad_faith_judge", "bad_att_judge", "not_faithful"} & set(line["game"]["prompt_outcomes"])
    with chat_server(verdict) as shared:
        done = torchrun("--config", "tiny", f"output_dir={tmp_path / '2'}", "steps=1", *judged_by(shared), processes=2)
    assert done.returncode == 0, done.stderr
    longest = filler(3 * 12)  # in the first request of every process
    one, two = (
        sorted(text for r in server.requests if longest not in (text := r["messages"][0]["content"]))
        for server in (alone, shared)
    )
    assert one == two and len(alone.requests) == len(one) + 1 and len(shared.requests) == len(two) + 2


def test_what_the_judge_does_not_answer_has_no_score(tmp_path):
    failing = pytest.warns(UserWarning, match="requests failed")
    with (
        chat_server(lambda text: 400 if "<response_A>" in text and " word" not in text else verdict(text)) as server,
        failing,
    ):
        (line,) = records(run_tiny(tmp_path, "steps=1", *judged_by(server)))
    assert line["game"]["response_outcomes"]["bad_def_judge"] > 0
    assert "no_error" not in line["game"]["response_outcomes"] and line["defender"]["pairs"] == 0


def test_without_a_server_nothing_is_begun(tmp_path):
    with chat_server(verdict) as server:
        pass
    with pytest.raises(ConfigError, match="cannot be reached"):
        run_tiny(tmp_path / "run", *judged_by(server))
    assert not (tmp_path / "run").exists()
