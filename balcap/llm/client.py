"""A client of OpenAI-compatible endpoints: a call goes in, an answer or one countable reason comes out.

    client = Client("Qwen/Qwen2.5-VL-7B-Instruct", serving)                        # ValueError without its key
    answer = await client.chat(Call("recall", messages, schema, 64, route=image_id))    # or CallFailed
    await client.run(calls, take)                      # a long job: calls are drawn as places become free

At most ``in_flight`` calls are under way, over as many connections; the pauses between the attempts of a call count, so
that a busy server is left in peace. 429, 5xx, a timeout and a broken connection are tried again after 0.5, 1, 2, ... 20
seconds, less up to a half at random, or after what Retry-After asks for (at most a minute); nothing else is.

Each picture has its own order of the endpoints (rendezvous hashing of ``route``) and stays with the first, whose prefix
cache knows it, while that works. After a 5xx, a timeout or a broken connection the next attempt goes to the next one.
An endpoint that cannot be connected to, or fails several times in a row, is set aside for some seconds, then a single
call tries whether it is back. Connections belong to an event loop: in another loop the client opens new ones, with a
window of their own. The key comes from the environment and goes into the header; it is in no message, log or exception.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
from pydantic import SecretStr

from balcap.llm.completion import Answer, CallFailed, Outcome, completion, retry_after
from balcap.llm.endpoints import Endpoints
from balcap.params.runtime import Serving

__all__ = ["Answer", "Call", "CallFailed", "Client"]

logger = logging.getLogger(__name__)
LARGEST_BODY = 2**20
FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0
CONNECT_SECONDS = 5.0
"""Time to connect; a longer silence is an endpoint that is away."""
IDLE_SECONDS = 4.0
"""Connections that rested longer are not used again: common servers close theirs after 5 s, perhaps right now."""
HEALTH_SECONDS = 5.0
COUNTS = ("calls", "attempts", "failures")
TOKENS = ("prompt_tokens", "completion_tokens", "cached_tokens")
EXPLAIN_SECONDS = 2.0
AWAY, LATE, BROKEN = (Outcome(reason, again=True, sick=True) for reason in ("no endpoint", "timeout", "connection"))


@dataclass(frozen=True, slots=True)
class Call:
    """One question to the model."""

    kind: str
    """Names the schema, and the row in the account."""
    messages: list[dict[str, Any]]
    """OpenAI chat messages, sent as they are."""
    schema: dict[str, Any] | None
    """JSON schema that the answer is bound to; None leaves it free."""
    max_tokens: int
    route: str
    """``image_id``: all calls of a picture go to one endpoint."""
    seed: int = 0
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class _Pool:
    """What belongs to one event loop."""

    session: aiohttp.ClientSession
    places: asyncio.Semaphore


class Client:
    """See the module's text. ``sleep`` and ``clock`` (monotonic) are for tests."""

    def __init__(
        self,
        model: str,
        serving: Serving,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ``ValueError`` for an address that is none, and when the key is not in the environment."""
        self.model, self.serving = model, serving
        self._sleep = sleep
        self._key = _key(serving.api_key_env)
        self._endpoints = Endpoints(serving.urls, clock)
        self._counts: dict[str, dict[str, int]] = {}
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        self._random = Random()  # of its own: waiting must not move anybody's seeded draws
        self._explained: set[int] = set()

    async def chat(self, call: Call) -> Answer:
        """The model's answer; raises :class:`CallFailed` (and ``CancelledError``), nothing else."""
        pool = await self._pool()
        counts = self._counts.setdefault(call.kind, dict.fromkeys((*COUNTS, *TOKENS), 0))
        counts["calls"] += 1
        async with pool.places:
            outcome = await self._outcome(pool, call, counts)
        for name in TOKENS:
            counts[name] += getattr(outcome.answer, name)
        if not outcome.reason:
            return outcome.answer
        counts["failures"] += 1
        raise CallFailed(outcome.reason)

    async def run(self, calls: Iterable[Call], take: Callable[[Call, Answer | CallFailed], None]) -> None:
        """Make all calls, in the window; ``take`` gets each with what came of it, in the order in which they end.

        Calls are drawn when there is a place for them: memory does not grow with their number. What drawing or
        ``take`` raises ends the job (as an ``ExceptionGroup``).
        """
        rest = iter(calls)

        async def work() -> None:
            for call in rest:
                take(call, await self._said(call))

        async with asyncio.TaskGroup() as group:
            for _ in range(self.serving.in_flight):
                group.create_task(work())

    async def healthy(self) -> dict[str, bool]:
        """Per endpoint whether ``GET {url}/models`` answers 200 within 5 s."""
        pool = await self._pool()
        found = await asyncio.gather(*(self._is_up(pool, endpoint.url) for endpoint in self._endpoints))
        return {endpoint.url: up for endpoint, up in zip(self._endpoints, found, strict=True)}

    def account(self) -> dict[str, dict[str, int]]:
        """Per kind of call: calls, attempts (requests sent or tried), failures and tokens (of failures too)."""
        return {kind: dict(counts) for kind, counts in list(self._counts.items())}

    async def close(self) -> None:
        """Let go of all connections. Calls under way fail; a later call opens new connections."""
        pools, self._pools = self._pools, {}
        for loop, pool in pools.items():
            await _let_go(loop, pool)

    async def _pool(self) -> _Pool:
        """The pool of the running loop, made when it is first needed."""
        loop = asyncio.get_running_loop()
        if pool := self._pools.get(loop):
            return pool
        over = [(other, self._pools.pop(other)) for other in list(self._pools) if other.is_closed()]
        self._pools[loop] = pool = _Pool(self._session(), asyncio.Semaphore(self.serving.in_flight))
        for other, old in over:
            await _let_go(other, old)
        return pool

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "balcap"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        places = self.serving.in_flight + len(self._endpoints)  # a health check waits for no call
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=places, keepalive_timeout=IDLE_SECONDS),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),  # the total: see _attempt
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nothing compressed was asked for, and a small body must not become a large one
        )

    async def _said(self, call: Call) -> Answer | CallFailed:
        try:
            return await self.chat(call)
        except CallFailed as failed:
            return failed

    async def _outcome(self, pool: _Pool, call: Call, counts: dict[str, int]) -> Outcome:
        """Of the last attempt."""
        body, sick = self._body(call), set[str]()
        for retry in range(self.serving.retries + 1):
            if pool.session.closed:
                return Outcome("closed")
            outcome = await self._reach(pool, call.route, body, counts, sick)
            if not outcome.again or retry == self.serving.retries:
                break
            await self._sleep(self._wait(retry, outcome.after))
        return outcome

    def _body(self, call: Call) -> bytes:
        asked: dict[str, Any] = {
            "model": self.model,
            "messages": call.messages,
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "seed": call.seed,
        }
        if call.schema is not None:
            bound = {"name": call.kind, "schema": call.schema, "strict": True}
            asked["response_format"] = {"type": "json_schema", "json_schema": bound}
        return json.dumps(asked).encode()

    def _wait(self, retry: int, asked: float) -> float:
        """Seconds before the next attempt: never less than the server asked for, and not the same for all calls."""
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(retry, 10))
        return asked + FIRST_WAIT * self._random.random() if asked else wait * self._random.uniform(0.5, 1.0)

    async def _reach(self, pool: _Pool, route: str, body: bytes, counts: dict[str, int], sick: set[str]) -> Outcome:
        """One attempt at the first endpoint that can be connected to, those in ``sick`` last; one found sick is added.

        Moving on from one that cannot be connected to costs no retry: nothing was asked.
        """
        for endpoint in sorted(self._endpoints.order(route), key=lambda endpoint: endpoint.url in sick):
            counts["attempts"] += 1
            outcome = await self._attempt(pool, f"{endpoint.url}/chat/completions", body)
            if outcome is AWAY:
                self._endpoints.away(endpoint)
                continue
            if outcome.sick:
                self._endpoints.failed(endpoint)
                sick.add(endpoint.url)
            else:
                self._endpoints.there(endpoint)
            return outcome
        return AWAY

    async def _attempt(self, pool: _Pool, url: str, body: bytes) -> Outcome:
        try:
            async with (
                asyncio.timeout(self.serving.timeout),
                pool.session.post(url, data=body, allow_redirects=False) as response,
            ):
                return await self._outcome_of(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return AWAY
        except TimeoutError:
            return LATE
        except (aiohttp.ClientError, OSError) as error:
            logger.debug("broken connection: %s", type(error).__name__)
            return BROKEN

    async def _outcome_of(self, response: aiohttp.ClientResponse) -> Outcome:
        status = response.status
        if status == 429 or status >= 500:
            after = retry_after(response.headers.get("Retry-After"))
            return Outcome(f"http {status}", again=True, after=after, sick=status >= 500)
        if status in (401, 403):
            return Outcome("key refused")
        if status >= 300:
            await self._explain(response)
            return Outcome(f"refused {status}")
        body = await _read(response)
        return Outcome("too large") if body is None else completion(body)

    async def _explain(self, response: aiohttp.ClientResponse) -> None:
        """Log once per status why a server refuses, in its words: the reason alone would not help to mend it."""
        if response.status not in self._explained:
            self._explained.add(response.status)
            text = await _read_text(response)
            if self._key and self._key.get_secret_value() in text:
                text = "(not shown: it holds the key)"
            logger.warning("%s refuses a call with status %d: %.300r", response.url.host, response.status, text)

    async def _is_up(self, pool: _Pool, url: str) -> bool:
        try:
            async with asyncio.timeout(HEALTH_SECONDS), pool.session.get(f"{url}/models", allow_redirects=False) as got:
                return got.status == 200
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError
            return False


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; ``None`` for one that is too large, which is not read on."""
    body = bytearray()
    while max(len(body), response.content_length or 0) <= LARGEST_BODY:
        chunk = await response.content.readany()
        if not chunk:
            return bytes(body)
        body += chunk
    response.close()
    return None


async def _read_text(response: aiohttp.ClientResponse) -> str:
    """What there is of a body soon; a refusal stays one, however its words end."""
    try:
        async with asyncio.timeout(EXPLAIN_SECONDS):
            return (await _read(response) or b"").decode(errors="replace")
    except (aiohttp.ClientError, OSError):
        return ""


async def _let_go(loop: asyncio.AbstractEventLoop, pool: _Pool) -> None:
    """Close the connections of a loop: from inside, when it is over, or by asking it to."""
    if loop is asyncio.get_running_loop() or loop.is_closed():
        await pool.session.close()
    else:
        asyncio.run_coroutine_threadsafe(pool.session.close(), loop)


def _key(variable: str | None) -> SecretStr | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or not key:
        raise ValueError(f"environment variable {variable} (runtime.serving: api_key_env) holds no key")
    return SecretStr(key)
