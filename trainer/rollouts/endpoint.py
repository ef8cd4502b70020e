"""A server's two pages, the list of its models and the chat: bounded in time and size, their failures told apart."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advgame.trainer.base.errors import ConfigError
from advgame.trainer.base.randomness import key_to_seed
from advgame.trainer.base.text import one_line, printable, redacted
from advgame.trainer.prompts.markers import break_known
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.settings.schema import SamplingConfig, ServerConfig

if TYPE_CHECKING:
    from httpx2 import AsyncClient, Response

LARGEST = 16 * 2**20
"""Bytes of an answer."""

REFUSALS = (400, 413, 414, 415, 422)
"""Statuses that are about the request; every other one but 200 is about the server, which may get over it."""

BUSY = (429, 503)
"""Statuses of a server that is well, but has too much to do, or of one that is about to be."""


class Refused(Exception):
    """The server would answer this request the same way again: a refusal, or nothing that is a chat's answer."""


class Unavailable(Exception):
    """The server did not answer, or with a failure of its own."""

    def __init__(self, message: str, status: int | None = None, wait: float = 0.0):
        super().__init__(message)
        self.status = status
        self.wait = wait
        """Seconds that the server asks to be left alone for."""


@dataclass(frozen=True)
class Endpoint:
    """An open connection."""

    client: "AsyncClient"
    server: ServerConfig
    key: str

    async def models(self) -> list[str]:
        """The names of the models. Raises Refused or Unavailable, as `chat` does."""
        answer = await self._json("GET", "models")
        try:
            return [redacted(str(model["id"]), self.key) for model in answer["data"]]
        except (KeyError, TypeError) as error:
            raise Refused("an answer that is no list of models") from error

    async def chat(self, request: Request, sampling: SamplingConfig) -> Rollout:
        """What the model says. The text of a failure is the server's own, safe to show."""
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": break_known(request.text)}],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": key_to_seed(*request.key, request.text) >> 32,  # some servers take 31 bits
        }
        wanted = {name: value for name, value in (body | self.server.extra).items() if value is not None}
        answer = await self._json("POST", "chat/completions", wanted)
        try:
            content, reason = answer["choices"][0]["message"]["content"], answer["choices"][0].get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Refused("an answer that is none of a chat") from error
        if not isinstance(content, str):
            raise Refused(f"an answer without text (finish_reason {self._shown(reason)})")
        text = content.encode("utf-8", "replace").decode()  # no tokenizer takes half a surrogate pair
        return Rollout([], [], [], redacted(text, self.key), finished=reason != "length")

    async def _json(self, method: str, page: str, body: dict | None = None) -> Any:
        """One time limit for all of it: connecting, sending, and however slowly the answer comes."""
        from httpx2 import HTTPError

        try:
            return await asyncio.wait_for(self._exchange(method, page, body), self.server.timeout)
        except asyncio.TimeoutError as error:
            raise Unavailable(f"no answer within {self.server.timeout:g} s") from error
        except HTTPError as error:
            raise Unavailable(self._shown(f"{type(error).__name__}: {error}")) from error

    async def _exchange(self, method: str, page: str, body: dict | None) -> Any:
        url = f"{self.server.url.rstrip('/')}/{page}"
        async with self.client.stream(method, url, json=body) as response:
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > LARGEST:
                    raise Refused(f"an answer of more than {LARGEST // 2**20} MiB")
        if response.status_code != 200:
            raise self._failure(response, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Refused("an answer that is not JSON") from error

    def _failure(self, response: "Response", content: bytearray) -> Exception:
        status, said = response.status_code, self._shown(_reason(content))
        if response.has_redirect_location:
            said = f"a redirect to {self._shown(response.headers['Location'])}, which is not followed"
        message = f"status {status}: {said}"
        if status in REFUSALS:
            return Refused(message)
        wait = response.headers.get("Retry-After", "")
        return Unavailable(message, status, float(wait) if re.fullmatch(r"\d{1,9}", wait) else 0.0)

    def _shown(self, text: object) -> str:
        return printable(one_line(redacted(str(text), self.key)))[:300]


def _reason(content: bytearray) -> str:
    """What a failure says: the protocol's message, or whatever else there is."""
    try:
        said = json.loads(content)
        return str(said["error"]["message"])
    except (KeyError, TypeError):
        return str(said)
    except (ValueError, RecursionError):
        return content.decode("utf-8", "replace")


@asynccontextmanager
async def connect(server: ServerConfig, names: dict[str, str]) -> AsyncIterator[Endpoint]:
    """Raises ConfigError that names the setting, by its name in `names`, if there can be no connection."""
    try:
        import httpx2
    except ImportError as error:
        raise ConfigError(f"{names['url']}={server.url} needs httpx2: pip install 'advgame[server]'") from error
    key = os.environ.get(server.api_key_env, "").strip()
    if not re.fullmatch("[!-~]*", key):
        raise ConfigError(f"{names['api_key_env']}={server.api_key_env}: the key in it has characters that no key has")
    try:
        url = httpx2.URL(server.url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"{names['url']}={server.url}: {error}; expected http://HOST:PORT/v1") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"{names['url']}={server.url}: expected http://HOST:PORT/v1")
    headers = {"Accept-Encoding": "identity"}  # what is small on the way may be large when unpacked
    if key:
        headers["Authorization"] = f"Bearer {key}"
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(headers=headers, timeout=None, limits=limits) as client:
        yield Endpoint(client, server, key)
