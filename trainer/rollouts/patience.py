"""Asking until there is an answer: a server that is away is waited for, a request that it always fails is given up."""

import asyncio
import random
import time
import warnings
from dataclasses import replace

from advgame.trainer.base.errors import Outage, ServerWarning
from advgame.trainer.records import Rollout
from advgame.trainer.rollouts.base import Request
from advgame.trainer.rollouts.endpoint import BUSY, Endpoint, Refused, Unavailable
from advgame.trainer.settings.schema import SamplingConfig

TRIES = 4
"""Failures of a request, while others are answered, after which it is given up."""

FIRST_WAIT, LONGEST_WAIT, LONGEST_IF_WELL = 0.5, 30.0, 4.0
"""Seconds before a request is sent again, give or take a half: doubling, up to a limit."""

WORTH_TELLING = 2.0
"""Seconds without an answer."""

CHANCE = random.SystemRandom()
"""Requests that were turned away together must not come back together. Nothing that is sampled depends on it."""

GREETING = Request("Hello", ())


class Patience:
    """With one server, for one batch of requests."""

    def __init__(self, endpoint: Endpoint, sampling: SamplingConfig, names: dict[str, str]):
        self._endpoint, self._sampling, self._names = endpoint, sampling, names
        self._slots = asyncio.Semaphore(endpoint.server.concurrency)
        self._greeting = asyncio.Lock()
        self._limit = 60 * endpoint.server.patience
        self._answered = self._greeted = time.monotonic()
        self._told: float | None = None
        """Length of the outage, in seconds, when it was last told of."""

    async def ask(self, request: Request) -> Rollout | Exception:
        """The answer, or the failure for which the request is given up. Raises Outage."""
        wait, tries, blamed = FIRST_WAIT, 0, None
        while True:
            async with self._slots:
                began = time.monotonic()
                answer = await self._try(request, self._sampling)
            if not isinstance(answer, Unavailable):
                return answer
            well = await self._is_well_since(began)
            if well:
                tries += answer.status not in BUSY
                blamed = blamed or began
                if tries == TRIES or time.monotonic() - blamed > self._limit:
                    return answer
            else:
                tries, blamed = 0, None
                self._wait_or_give_up(answer)
            await asyncio.sleep(max(wait * CHANCE.uniform(0.5, 1.5), min(answer.wait, self._limit)))
            wait = min(2 * wait, LONGEST_IF_WELL if well else LONGEST_WAIT)

    async def _try(self, request: Request, sampling: SamplingConfig) -> Rollout | Exception:
        try:
            answer: Rollout | Exception = await self._endpoint.chat(request, sampling)
        except Unavailable as error:
            return error
        except Refused as error:
            answer = error
        if self._told is not None:
            self._told = None
            self._tell(f"answers again, after {self._silence():.0f} s")
        self._answered = time.monotonic()
        return answer

    async def _is_well_since(self, began: float) -> bool:
        """Whether anything was answered since then. If nothing was asked besides, a greeting tells."""
        async with self._greeting:
            if max(self._answered, self._greeted) < began:
                self._greeted = time.monotonic()
                await self._try(GREETING, replace(self._sampling, max_new_tokens=16))
        return self._answered >= began

    def _wait_or_give_up(self, failure: Unavailable) -> None:
        silence, setting = self._silence(), f"{self._names['patience']}={self._endpoint.server.patience:g}"
        if silence > self._limit:
            raise Outage(
                f"{self._names['url']}={self._endpoint.server.url}: no answer for {silence:.0f} s, longer than "
                f"{setting} (minutes): {failure}"
            )
        if silence > (WORTH_TELLING if self._told is None else max(60, 2 * self._told)):
            self._told = silence
            self._tell(f"no answer for {silence:.0f} s: {failure}; it is waited for, {setting} (minutes)")

    def _silence(self) -> float:
        """Seconds since the last answer."""
        return time.monotonic() - self._answered

    def _tell(self, what: str) -> None:
        warnings.warn(f"{self._endpoint.server.url}: {what}", ServerWarning, stacklevel=2)
