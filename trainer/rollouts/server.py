"""Text completion by a server that speaks OpenAI's chat protocol: vLLM, llama.cpp, SGLang, or a hosted one."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from advgame.trainer.config import ConfigError, SamplingConfig, ServerConfig
from advgame.trainer.console import printable
from advgame.trainer.game import Rollout

JUDGE = {setting: f"judge.server.{setting}" for setting in ("url", "model", "api_key_env")}
"""What its settings are called where the server is the judge."""

TARGET = {"url": "--target", "model": "--target-model", "api_key_env": "the key's variable"}
"""What they are called where it is the target of `advgame redteam`."""


def complete(
    server: ServerConfig, texts: list[str], sampling: SamplingConfig, names: dict[str, str] = JUDGE
) -> list[Rollout | None]:
    """The answer to each text, as one user turn, in order, without its tokens; None where a request failed for good.

    Raises ConfigError, before any work, where the server is not there or refuses (see check_server).
    """
    if not texts:
        return []
    check_server(server, names)
    with _client(server, names) as client, ThreadPoolExecutor(server.concurrency) as threads:
        answers = list(threads.map(partial(_answer, client, server.model, sampling), texts))
    failed = [str(answer) for answer in answers if isinstance(answer, Exception)]
    if failed:
        reason = printable(failed[-1])[:300]
        warnings.warn(f"{server.url}: {len(failed)} of {len(texts)} requests failed; the last: {reason}", stacklevel=2)
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def check_server(server: ServerConfig, names: dict[str, str] = JUDGE) -> None:
    """Whether the server is there, takes the key and has the model. Raises ConfigError that names the setting."""
    with _client(server, names) as client:
        import openai

        try:
            known = [model.id for model in client.models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            key = "is not accepted" if os.environ.get(server.api_key_env) else "is not set"
            raise ConfigError(
                f"{names['api_key_env']}={server.api_key_env}: {server.url} wants a key, and the one in this "
                f"environment variable {key}"
            ) from error
        except openai.APIConnectionError as error:
            raise ConfigError(
                f"{names['url']}={server.url}: cannot be reached; start the server, or correct the address"
            ) from error
        except Exception as error:  # whatever else it may send: a web page, for example
            raise ConfigError(
                f"{names['url']}={server.url}: does not list its models ({type(error).__name__}); "
                f"most servers want an address that ends in /v1"
            ) from error
    if server.model not in known:
        has = printable(", ".join(known[:20])) or "none"
        raise ConfigError(f"{names['model']}={server.model}: {server.url} does not have it; it has {has}")


def _client(server: ServerConfig, names: dict[str, str]):
    try:
        from openai import OpenAI
    except ImportError as error:
        raise ConfigError(f"{names['url']}={server.url} needs openai: pip install 'advgame[server]'") from error
    key = os.environ.get(server.api_key_env) or "none"  # local servers want none, the package wants something
    try:
        return OpenAI(base_url=server.url, api_key=key, timeout=server.timeout)
    except Exception as error:  # the package lets its HTTP library's through
        raise ConfigError(f"{names['url']}={server.url}: {error}; expected http://HOST:PORT/v1") from error


def _answer(client, model: str, sampling: SamplingConfig, text: str) -> Rollout | Exception | None:
    """The library tries again when the server is busy or fails; what it gives up on is returned."""
    try:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
        )
        content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    except Exception as error:  # the library's own, or those of an answer that has not the form of one
        return error
    if not isinstance(content, str):
        return None
    text = content.encode("utf-8", "replace").decode()  # no tokenizer takes half of a surrogate pair
    return Rollout([], [], text, finished=reason != "length")
