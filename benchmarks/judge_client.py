"""The client of judges against a server on loopback: is the server kept full, and what does a call cost here?

    python benchmarks/judge_client.py [--calls 10000]

The server is a process of its own with 64 places of 200 ms, so 320 calls/s at most. A call is that of a judge who sees:
1.5 kB of instructions, a picture of 16 kB (base64), a caption and a schema. Our client runs `Client.run` with a window
of 128, twice as large as the server, so that a call waits wherever a place becomes free. Beside it stands the plain
`openai` client with `asyncio.gather` (`make bench` installs it). It makes a tenth of the calls: all at once, the cost
of a call grows with their number, and it loses some to its time limit for connecting. Each run is a process of its own,
and its first call is not counted.

rate       calls per second, first request to last answer / 320; goal >= 0.95
memory     peak resident memory in MB, all calls / a tenth of them; goal <= 1.1
fastest    calls per second against a server without delay, 3,000 calls, ours / theirs; stated, no goal
cpu        CPU ms per call of the client's process in the same runs, ours / theirs; stated, no goal

The interval of the rate is that of the tenths of the run, those of the last two are of three runs in turn. The last
line has every run, with the calls that got no answer (`failed`; one of ours ends the benchmark).
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from balcap.llm.client import Answer, Call, CallFailed, Client
from balcap.params.runtime import Serving

PLACES, SECONDS = 64, 0.2
FULL = PLACES / SECONDS
WINDOW = 128
FEW, REPEATS = 3000, 3
PARTS = 10
LIMIT_SECONDS = 600.0
SCHEMA = {"type": "object", "properties": {"covered": {"type": "array", "items": {"type": "integer"}}}}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": '{"covered": [1, 2]}'}, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 900, "completion_tokens": 9, "total_tokens": 909}
REPLY = {"id": "1", "object": "chat.completion", "created": 0, "model": "judge", "choices": [CHOICE], "usage": USAGE}
Found = dict[str, Any]


def main() -> None:
    """Measure, print one line per goal and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--serve", type=float, metavar="SECONDS", help="only be the server, with this delay")
    parser.add_argument("--ask", nargs=2, metavar=("CLIENT", "URL"), help="only make the calls and print the cost")
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
    elif options.ask:
        print(json.dumps(ask(options.ask[0], options.ask[1], options.calls)))
    else:
        compare(max(options.calls, PARTS * PARTS))


def compare(calls: int) -> None:
    """All runs, and their lines."""
    if importlib.util.find_spec("openai") is None:
        sys.exit("error: the `openai` client is not installed; `make bench` installs it (extra `bench`)")
    with server(SECONDS) as url:
        few, ours = run("balcap", url, calls // PARTS), run("balcap", url, calls)
        theirs = run("openai", url, calls // PARTS)
    with server(0.0) as url:
        fast = [(run("balcap", url, FEW), run("openai", url, FEW)) for _ in range(REPEATS)]
    lines = [
        line("rate", ours["rate"], FULL, [rate / FULL for rate in ours["rate_parts"]], (">=", 0.95)),
        line("memory", ours["peak_mb"], few["peak_mb"], [ours["peak_mb"] / few["peak_mb"]], ("<=", 1.1)),
        in_turn("cpu_vs_openai", "cpu_ms", fast),
        in_turn("fastest_vs_openai", "rate", fast),
    ]
    for found in lines:
        print(json.dumps(found))
    runs = {"balcap": ours, "balcap, a tenth": few, "openai": theirs, "fast": [run for pair in fast for run in pair]}
    print(json.dumps({"benchmark": "judge_client", "runs": runs, "holds": all(found["holds"] for found in lines)}))


def in_turn(name: str, what: str, pairs: list[tuple[Found, Found]]) -> Found:
    """The line of what has no goal: the means of the runs in turn."""
    ours, theirs = (sum(run[what] for run in side) / len(side) for side in zip(*pairs, strict=True))
    return line(name, ours, theirs, [a[what] / b[what] for a, b in pairs])


def line(name: str, ours: float, against: float, ratios: list[float], goal: tuple[str, float] | None = None) -> Found:
    """One goal's line."""
    ratio = ours / against
    sign, bound = goal or ("stated", 0.0)
    return {
        "benchmark": f"judge_client/{name}",
        "ratio": round(ratio, 4),
        "interval": [round(min(ratios), 4), round(max(ratios), 4)],
        "ours": round(ours, 3),
        "against": round(against, 3),
        "goal": f"{sign} {bound}" if goal else sign,
        "holds": {">=": ratio >= bound, "<=": ratio <= bound}.get(sign, True),
    }


def run(client: str, url: str, calls: int) -> Found:
    """What ``ask`` finds in a process of its own."""
    command = [sys.executable, __file__, "--ask", client, url, "--calls", str(calls)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_SECONDS)
    return {"client": client, "calls": calls, **json.loads(done.stdout)}


@contextmanager
def server(delay: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(delay)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.terminate()
        process.wait(LIMIT_SECONDS)


async def serve(delay: float) -> None:
    """Answer every request after ``delay`` seconds in one of the places; print the port first.

    When a place is free again is computed, so that a busy machine that wakes this process late makes no place slower.
    """
    free = [0.0] * PLACES
    body = json.dumps(REPLY).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                if delay:
                    now = time.monotonic()
                    end = max(now, free[0]) + delay
                    heapq.heapreplace(free, end)
                    await asyncio.sleep(end - now)
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError):  # the client is done
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=4096)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


class Clock:
    """Wall and CPU time at each tenth of the calls."""

    def __init__(self, calls: int) -> None:
        self.done, self.failed, self.part = 0, 0, calls // PARTS
        self.times = [(time.perf_counter(), time.process_time())]

    def tick(self) -> None:
        """One more call has ended."""
        self.done += 1
        if self.done % self.part == 0 and len(self.times) <= PARTS:
            self.times.append((time.perf_counter(), time.process_time()))

    def found(self) -> Found:
        """Calls per second, CPU ms per call and MB; of the whole and of its parts."""
        wall, cpu = ([b - a for a, b in pairwise(times)] for times in zip(*self.times, strict=True))
        return {
            "rate": round(self.part * PARTS / sum(wall), 1),
            "cpu_ms": round(1000 * sum(cpu) / (self.part * PARTS), 4),
            "peak_mb": peak(),
            "failed": self.failed,
            "rate_parts": [round(self.part / seconds, 1) for seconds in wall],
            "cpu_parts": [round(1000 * seconds / self.part, 4) for seconds in cpu],
        }


def peak() -> float:
    """Peak resident memory of this process in MB; getrusage would count that of the one that started it."""
    with open("/proc/self/status", encoding="ascii") as status:
        return round(next(int(row.split()[1]) for row in status if row.startswith("VmHWM")) / 1024, 1)


def ask(client: str, url: str, calls: int) -> Found:
    """Make the calls."""
    return asyncio.run(CLIENTS[client](url, calls))


PICTURE = "data:image/jpeg;base64," + "Ab0/" * 4096


def questions(count: int) -> Iterator[Call]:
    """``count`` different calls."""
    for n in range(count):
        seen = [{"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": f"Caption {n}. " * 20}]
        messages: list[Found] = [
            {"role": "system", "content": "Say what is true. " * 85},
            {"role": "user", "content": seen},
        ]
        yield Call("recall", messages, SCHEMA, 64, route=str(n // 8))


async def with_balcap(url: str, calls: int) -> Found:
    """Ours: a window, retries, checks, accounts."""
    client = Client("judge", Serving(urls=(url,), api_key_env=None, in_flight=WINDOW, timeout=60.0, retries=3))
    for first in questions(1):
        await client.chat(first)
    clock = Clock(calls)

    def take(call: Call, answer: Answer | CallFailed) -> None:
        if isinstance(answer, CallFailed):
            raise answer
        clock.tick()

    await client.run(questions(calls), take)
    found = clock.found()
    await client.close()
    return found


def asked(call: Call) -> Found:
    """The call as the others send it."""
    bound = {"name": call.kind, "schema": call.schema, "strict": True}
    return {
        "model": "judge",
        "messages": call.messages,
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "seed": call.seed,
        "response_format": {"type": "json_schema", "json_schema": bound},
    }


async def with_openai(url: str, calls: int) -> Found:
    """The plain `openai` client, all calls at once."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url, api_key="none") as client:

        async def one(call: Call) -> str:
            said = await client.chat.completions.create(**asked(call))
            return str(said.choices[0].message.content)

        return await gathered(one, calls)


async def gathered(one: Callable[[Call], Awaitable[str]], calls: int) -> Found:
    """`asyncio.gather` over all calls."""
    for first in questions(1):
        await one(first)
    clock = Clock(calls)

    async def ticking(call: Call) -> None:
        try:
            assert await one(call)
        except Exception:  # it has given up; the others go on
            clock.failed += 1
        clock.tick()

    await asyncio.gather(*map(ticking, questions(calls)))
    return clock.found()


CLIENTS = {"balcap": with_balcap, "openai": with_openai}


if __name__ == "__main__":
    main()
