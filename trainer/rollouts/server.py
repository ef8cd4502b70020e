"""Sampling from a server that speaks OpenAI's chat protocol: vLLM, llama.cpp, SGLang, or a hosted one."""

import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.text import printable
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.settings.schema import SamplingConfig, ServerConfig

if TYPE_CHECKING:
    from openai import OpenAI

JUDGE = {setting: f"judge.server.{setting}" for setting in ("url", "model", "api_key_env")}
"""What a judge's server settings are called, for errors."""

TARGET = {"url": "--target", "model": "--target-model", "api_key_env": "the key's variable"}
"""What the settings of a red-team target are called."""


class ServerSampler:
    """Asks a server; its rollouts have text only, and are as reproducible as its answers."""

    def __init__(self, server: ServerConfig, names: dict[str, str] = JUDGE):
        self._server, self._names = server, names

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Raises ValueError: a server keeps its own weights."""
        raise ValueError(f"{self._names['url']}={self._server.url}: its weights cannot be replaced")

    def sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | None]:
        """Answers in order; None for a request that failed on every try, of which a warning tells.

        Raises ConfigError, before any request, if the server is not there or refuses (see check_server).
        """
        if not requests:
            return []
        check_server(self._server, self._names)
        with _client(self._server, self._names) as client, ThreadPoolExecutor(self._server.concurrency) as threads:
            ask = partial(_ask, client, self._server.model, sampling)
            answers = list(threads.map(ask, [request.text for request in requests]))
        failed = [str(answer) for answer in answers if isinstance(answer, Exception)]
        if failed:
            warnings.warn(
                f"{self._server.url}: {len(failed)} of {len(requests)} requests failed; "
                f"the last: {printable(failed[-1])[:300]}",
                stacklevel=2,
            )
        return [None if isinstance(answer, Exception) else answer for answer in answers]

    def close(self) -> None:
        pass  # every call has a client of its own


def check_server(server: ServerConfig, names: dict[str, str] = JUDGE) -> None:
    """Raises ConfigError, naming the setting, if the server is not there, refuses the key or lacks the model."""
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


def _client(server: ServerConfig, names: dict[str, str]) -> "OpenAI":
    try:
        from openai import OpenAI
    except ImportError as error:
        raise ConfigError(f"{names['url']}={server.url} needs openai: pip install 'advgame[server]'") from error
    key = os.environ.get(server.api_key_env) or "none"  # local servers want none, but the package wants something
    try:
        return OpenAI(base_url=server.url, api_key=key, timeout=server.timeout)
    except Exception as error:  # errors of the HTTP library, which the package lets through
        raise ConfigError(f"{names['url']}={server.url}: {error}; expected http://HOST:PORT/v1") from error


def _ask(client: "OpenAI", model: str | None, sampling: SamplingConfig, text: str) -> Rollout | Exception | None:
    """The package tries again while the server is busy or failing; what it gives up on is returned."""
    try:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
        )
        content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    except Exception as error:  # the package's own, or from an answer that lacks these fields
        return error
    if not isinstance(content, str):
        return None
    text = content.encode("utf-8", "replace").decode()  # no tokenizer takes half a surrogate pair
    return Rollout([], [], [], text, finished=reason != "length")
