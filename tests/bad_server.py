"""An OpenAI-compatible server on loopback that misbehaves as it is told.

    with BadServer() as server:
        server.then("429", "reset")                      # the next two requests; all others are answered
        server.rule = lambda asked: "half json" if "cat" in asked.text else None
        server.answer = lambda asked: '{"covered": [1]}'
        Serving(urls=(server.url,), ...)
        server.die(); server.revive()                    # connections are refused in between
    server.asked, server.peak                            # what it was asked, and how much of it at once

It runs in a thread and may be used from any other. FAULTS names what it can do wrong.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from balcap.llm.background import Background

SECONDS = 10.0
"""Deadline of everything that a test waits for here."""
LARGE = 10_000_000
ANSWER = '{"covered": [1]}'
USAGE = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    authorization: str | None
    body: dict[str, Any]

    @property
    def kind(self) -> str:
        """Of the call: the name of the schema."""
        return str(self.body.get("response_format", {}).get("json_schema", {}).get("name"))

    @property
    def text(self) -> str:
        """All messages as one string."""
        return json.dumps(self.body.get("messages"), ensure_ascii=False)


class BadServer:
    """See the module's text."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked], str] = lambda asked: ANSWER
        self.rule: Callable[[Asked], str | None] = lambda asked: None
        self.delay = 0.0
        """Seconds before each answer."""
        self.stalled: Callable[[], object] = lambda: None
        """Called in the server's thread when a request begins to wait for ever."""
        self.asked: list[Asked] = []
        self.peak = self.now = 0
        """Most requests at once; those at the moment."""
        self._next: deque[str] = deque()
        self._loop = Background()
        self._held = socket.socket()  # keeps the port while the server is dead: nobody listens, nobody else gets it
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._held.getsockname()[1]}/v1"
        self._runner: web.AppRunner | None = None
        self.revive()

    def then(self, *faults: str) -> None:
        """What the next requests get; "good" is an answer."""
        assert all(fault in FAULTS for fault in faults), faults
        self._next.extend(faults)

    def revive(self) -> None:
        """Listen (again) at the same address."""
        self._loop.run(self._start(), SECONDS)

    def die(self) -> None:
        """Break all connections and refuse new ones."""
        self._loop.run(self._stop(), SECONDS)

    def close(self) -> None:
        """End the server and its thread."""
        self.die()
        self._loop.close()
        self._held.close()

    def __enter__(self) -> BadServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.0)
        await self._runner.setup()
        port = self._held.getsockname()[1]
        await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()

    async def _stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _models(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.path, request.headers.get("Authorization"), {})
        fault = self.rule(asked)
        return await FAULTS[fault](self, request, asked) if fault else web.json_response({"object": "list", "data": []})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(request.path, request.headers.get("Authorization"), await request.json())
        self.asked.append(asked)
        self.now += 1
        self.peak = max(self.peak, self.now)
        try:
            await asyncio.sleep(self.delay)
            fault = self._next.popleft() if self._next else self.rule(asked)
            return await FAULTS[fault or "good"](self, request, asked)
        finally:
            self.now -= 1


Fault = Callable[[BadServer, web.Request, Asked], Awaitable[web.StreamResponse]]


def _says(text: Any = None, ended: str = "stop", usage: Any = USAGE, **message: Any) -> Fault:
    """A completion with ``text``, or with the server's own answer."""

    async def fault(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
        said = {"role": "assistant", "content": server.answer(asked) if text is None else text} | message
        choice = {"index": 0, "message": said, "finish_reason": ended}
        return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})

    return fault


def _status(status: int, text: str = "no", **headers: str) -> Fault:
    async def fault(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return fault


def _body(text: str) -> Fault:
    return _status(200, text)


async def _compressed(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    """A good answer, packed though nobody asked for that: what is small here may be huge there."""
    reply = await _says()(server, request, asked)
    assert isinstance(reply, web.Response) and reply.text
    packed = gzip.compress(reply.text.encode())
    return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})


async def _echo(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    return web.Response(status=400, text=f"you sent {asked.authorization}")


async def _moved(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": f"{server.url}/chat/completions"})


async def _stall(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    server.stalled()
    return await _say_nothing()


async def _say_nothing() -> web.StreamResponse:
    await asyncio.Event().wait()  # until the client is gone, or the server
    raise AssertionError


async def _begin(request: web.Request, part: bytes, length: int | None, status: int = 200) -> web.StreamResponse:
    reply = web.StreamResponse(status=status)
    reply.content_length = length
    await reply.prepare(request)
    await reply.write(part)
    return reply


async def _stall_in_body(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    await _begin(request, b'{"choices": [', 1000)
    return await _stall(server, request, asked)


async def _stalled_refusal(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    await _begin(request, b"bad requ", 1000, status=400)
    return await _stall(server, request, asked)


async def _reset(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    """Breaks the connection in the middle of the body, with RST."""
    reply = await _begin(request, b'{"choices": [', 1000)
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return reply


async def _hang_up(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    """Closes the connection without a word."""
    assert request.transport is not None
    request.transport.abort()
    return await _say_nothing()


async def _no_http(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.write(b"\x00\x01 this is no HTTP\r\n\r\n")  # type: ignore[attr-defined]
    request.transport.close()
    return await _say_nothing()


def _large(length: int | None) -> Fault:
    """A valid completion of 10 MB, its length stated or not."""

    async def fault(server: BadServer, request: web.Request, asked: Asked) -> web.StreamResponse:
        reply = await _begin(request, b'{"choices": [{"message": {"content": "', length)
        for _ in range(LARGE // 50_000):
            await reply.write(b"a" * 50_000)
        return reply

    return fault


FAULTS: dict[str, Fault] = {
    "good": _says(),
    # the connection, the server
    "429": _status(429),
    "429 after 7": _status(429, Retry_After="7"),
    "429 after an hour": _status(429, Retry_After="3600"),
    "429 after nonsense": _status(429, Retry_After="soon"),
    "500": _status(500),
    "503 after 3": _status(503, Retry_After="3"),
    "reset": _reset,
    "hang up": _hang_up,
    "no http": _no_http,
    "stall": _stall,
    "stall in body": _stall_in_body,
    # refused
    "400": _status(400, "max_tokens is too large"),
    "400 echo": _echo,
    "400 stalled": _stalled_refusal,
    "404": _status(404),
    "401": _status(401),
    "403": _status(403),
    "moved": _moved,
    # no completion
    "half body": _body('{"choices": [{"message": {"content": "{}'),
    "extra body": _body('{"choices": []} and more'),
    "html": _body("<html>Sign in</html>"),
    "deep body": _body("[" * 200_000),
    "list": _body("[]"),
    "no message": _body('{"choices": [{"text": "x"}]}'),
    "empty choices": _body('{"choices": []}'),
    "no choices": _body("{}"),
    "compressed": _compressed,
    "large": _large(LARGE + 38),
    "large, chunked": _large(None),
    # a completion that is no answer
    "refusal": _says("", refusal="I cannot help with that."),
    "filtered": _says("", "content_filter"),
    "cut off": _says('{"covered": [1, 2', "length"),
    "no content": _says(content=None),
    "blank": _says(" \n"),
    "number": _says(7),
    "half character": _says("\ud800"),
    # an answer, but in no form; the client passes these on
    "half json": _says('{"covered": [1, '),
    "extra text": _says('Sure! Here it is:\n```json\n{"covered": [1]}\n```\nAnything else?'),
    "wrong schema": _says('{"units": "all of them"}'),
    "no usage": _says(usage=None),
    "odd usage": _says(usage={"prompt_tokens": "many", "completion_tokens": -3, "prompt_tokens_details": []}),
}
