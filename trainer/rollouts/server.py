"""Sampling from a server that speaks OpenAI's chat protocol: vLLM, llama.cpp, SGLang, or a hosted one."""

import asyncio
import dataclasses
import os
import warnings
from collections.abc import Iterable

from torch import Tensor

from advgame.trainer.base.errors import ConfigError, ServerWarning
from advgame.trainer.base.text import printable
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.endpoint import Refused, Unavailable, connect
from advgame.trainer.rollouts.patience import Patience
from advgame.trainer.settings.schema import SamplingConfig, ServerConfig

JUDGE = {field.name: f"judge.server.{field.name}" for field in dataclasses.fields(ServerConfig)}
"""What a judge's server settings are called, for errors."""

TARGET = {setting: f"target.{setting}" for setting in JUDGE} | {"url": "--target", "model": "--target-model"}
"""What the settings of a red-team target are called."""

ALARMING = 0.05
"""Share of the requests that failed."""


class ServerSampler:
    """Asks a server; its rollouts have text only, and are as reproducible as its answers."""

    def __init__(self, server: ServerConfig, names: dict[str, str] = JUDGE):
        self._server, self._names = server, names

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Raises ValueError: a server keeps its own weights."""
        raise ValueError(f"{self._names['url']}={self._server.url}: its weights cannot be replaced")

    def sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | None]:
        """Answers in order; None for a request that failed, of which a warning tells.

        While the server does not answer at all, it waits. Raises Outage when that takes longer than server.patience.
        """
        if not requests:
            return []
        answers = asyncio.run(self._sample(requests, sampling))
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if failed:
            share = len(failed) / len(requests)
            warnings.warn(
                f"{'alarm: ' if share > ALARMING else ''}{self._server.url}: {len(failed)} of {len(requests)} requests "
                f"failed ({share:.0%}); the last: {failed[-1]}",
                ServerWarning,
                stacklevel=2,
            )
        return [None if isinstance(answer, Exception) else answer for answer in answers]

    async def _sample(self, requests: list[Request], sampling: SamplingConfig) -> list[Rollout | Exception]:
        async with connect(self._server, self._names) as endpoint:
            patience = Patience(endpoint, sampling, self._names)
            return await asyncio.gather(*map(patience.ask, requests))

    def close(self) -> None:
        pass  # every call has a connection of its own


def check_server(server: ServerConfig, sampling: SamplingConfig, longest: str, names: dict[str, str] = JUDGE) -> None:
    """Raises ConfigError, naming the setting, if the server does not answer, or refuses the key or the longest prompt.

    It is asked for its models, and then the longest prompt that there can be.
    """
    asyncio.run(_check(server, sampling, longest, names))


def filler(tokens: int) -> str:
    """Text of about so many tokens, whatever the server's tokenizer."""
    return " ".join(["word"] * tokens)


async def _check(server: ServerConfig, sampling: SamplingConfig, longest: str, names: dict[str, str]) -> None:
    async with connect(server, names) as endpoint:
        try:
            known = await endpoint.models()
        except (Refused, Unavailable) as error:
            raise ConfigError(_why_no_models(error, server, names)) from error
        if server.model not in known:
            has = printable(", ".join(known[:20]))[:1000] or "none"
            raise ConfigError(f"{names['model']}={server.model}: {server.url} does not have it; it has {has}")
        try:
            await endpoint.chat(Request(longest, ()), sampling)
        except (Refused, Unavailable) as error:
            fix = f"{names['timeout']} may be too short"
            if isinstance(error, Refused):
                fix = f"a field that it does not know, such as seed, is left out with {names['extra']}.seed=null"
            raise ConfigError(
                f"{names['url']}={server.url}: the longest prompt, of {len(longest)} characters, with max_tokens="
                f"{sampling.max_new_tokens}, fails: {error}; {fix}"
            ) from error


def _why_no_models(error: Refused | Unavailable, server: ServerConfig, names: dict[str, str]) -> str:
    status = error.status if isinstance(error, Unavailable) else None
    if status in (401, 403):
        key = "is not accepted" if os.environ.get(server.api_key_env) else "is not set"
        return (
            f"{names['api_key_env']}={server.api_key_env}: {server.url} wants a key, and the one in this environment "
            f"variable {key}"
        )
    if isinstance(error, Unavailable) and status is None:
        return f"{names['url']}={server.url}: cannot be reached ({error}); start the server, or correct the address"
    fix = "most servers want an address that ends in /v1"
    return f"{names['url']}={server.url}: does not list its models ({error}); {fix}"
