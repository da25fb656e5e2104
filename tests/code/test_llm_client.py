"""The client of judges: every way in which a server can fail is one countable reason, and costs what it has to."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from email.utils import formatdate
from typing import Any, TypeVar

import aiohttp
import pytest

from balcap.llm.background import Background
from balcap.llm.client import Answer, Call, CallFailed, Client
from balcap.llm.completion import completion, retry_after
from balcap.llm.endpoints import ASIDE_SECONDS, FAILURES, Endpoints
from balcap.params.runtime import Serving
from tests.bad_server import ANSWER, FAULTS, SECONDS, BadServer

T = TypeVar("T")
KEY = "sk-test-not-a-key-0123456789"
SCHEMA = {"type": "object", "properties": {"covered": {"type": "array", "items": {"type": "integer"}}}}


@pytest.fixture
def server() -> Iterator[BadServer]:
    with BadServer() as started:
        yield started


class Sleeps:
    """Instead of asyncio.sleep: keeps what was asked for, and takes no time."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.asked: list[float] = []
        self.meanwhile = meanwhile

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.meanwhile()
        await asyncio.sleep(0)


def serving(*servers: BadServer, key: str | None = None, **settings: Any) -> Serving:
    defaults = {"api_key_env": key, "in_flight": 8, "timeout": SECONDS, "retries": 3}
    return Serving(**({"urls": tuple(server.url for server in servers)} | defaults | settings))


def call(route: str = "a", kind: str = "recall", **change: Any) -> Call:
    messages = [{"role": "system", "content": "Say it."}, {"role": "user", "content": f"{route}: Café «ü» \ud83d"}]
    return Call(**({"kind": kind, "messages": messages, "schema": SCHEMA, "max_tokens": 9, "route": route} | change))


def chats(client: Client, *calls: Call) -> list[Answer | str]:
    """Answers or reasons, in order; the calls are made one after another, in a loop of their own."""

    async def all_of_them() -> list[Answer | str]:
        said: list[Answer | str] = []
        for one in calls:
            try:
                said.append(await client.chat(one))
            except CallFailed as failed:
                said.append(failed.reason)
        return said

    return finish(client, all_of_them())


def finish(client: Client, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, in a loop of its own; the client is closed behind it."""

    async def whole() -> T:
        try:
            return await asyncio.wait_for(work, 6 * SECONDS)
        finally:
            await client.close()

    return asyncio.run(whole())


def test_a_call_is_sent_as_it_is(server: BadServer) -> None:
    (answer, free) = chats(Client("m", serving(server)), call(seed=3), call(schema=None, temperature=0.5))
    assert answer == free == Answer(ANSWER, 100, 7, 64)
    first, second = server.asked
    assert first.path == "/v1/chat/completions" and first.authorization is None
    bound = {"type": "json_schema", "json_schema": {"name": "recall", "schema": SCHEMA, "strict": True}}
    assert first.body == {
        "model": "m",
        "messages": call().messages,
        "max_tokens": 9,
        "temperature": 0.0,
        "seed": 3,
        "response_format": bound,
    }
    assert "response_format" not in second.body and second.body["temperature"] == 0.5


FINAL = {
    "400": "refused 400",
    "400 stalled": "refused 400",
    "404": "refused 404",
    "moved": "refused 307",
    "401": "key refused",
    "403": "key refused",
    "half body": "not a completion",
    "extra body": "not a completion",
    "html": "not a completion",
    "deep body": "not a completion",
    "list": "not a completion",
    "no message": "not a completion",
    "no choices": "not a completion",
    "number": "not a completion",
    "compressed": "not a completion",
    "half character": "not a completion",
    "large": "too large",
    "large, chunked": "too large",
    "empty choices": "empty",
    "no content": "empty",
    "blank": "empty",
    "refusal": "refusal",
    "filtered": "refusal",
    "cut off": "cut off",
}
AGAIN = {
    "429": "http 429",
    "429 after 7": "http 429",
    "429 after an hour": "http 429",
    "429 after nonsense": "http 429",
    "500": "http 500",
    "503 after 3": "http 503",
    "reset": "connection",
    "hang up": "connection",
    "no http": "connection",
    "stall": "timeout",
    "stall in body": "timeout",
}


class Timeouts:
    """Stands for asyncio in the client: a timeout ends when the server stalls, whatever the clock says."""

    def __init__(self, server: BadServer) -> None:
        server.stalled = self.expire
        self.asked: list[float] = []

    def timeout(self, seconds: float) -> asyncio.Timeout:
        self.asked.append(seconds)
        self.last, self.loop = asyncio.timeout(None), asyncio.get_running_loop()
        return self.last

    def expire(self) -> None:
        self.loop.call_soon_threadsafe(self.last.reschedule, 0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture
def timeouts(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> Timeouts:
    instead = Timeouts(server)
    monkeypatch.setattr("balcap.llm.client.asyncio", instead)
    return instead


@pytest.mark.parametrize("fault", FINAL)
def test_what_would_be_the_same_again_is_not_tried_again(server: BadServer, fault: str) -> None:
    server.then(fault)
    sleeps = Sleeps()
    client = Client("m", serving(server), sleep=sleeps)
    assert chats(client, call(), call()) == [FINAL[fault], Answer(ANSWER, 100, 7, 64)], "the next call is unharmed"
    assert len(server.asked) == 2 and not sleeps.asked
    assert {k: v for k, v in client.account()["recall"].items() if "tokens" not in k} == {
        "calls": 2,
        "attempts": 2,
        "failures": 1,
    }


@pytest.mark.parametrize("fault", AGAIN)
def test_what_may_pass_is_tried_again(server: BadServer, timeouts: Timeouts, fault: str) -> None:
    server.then(fault, fault)
    client = Client("m", serving(server), sleep=Sleeps())
    assert chats(client, call()) == [Answer(ANSWER, 100, 7, 64)]
    account = client.account()["recall"]
    assert (account["calls"], account["attempts"], account["failures"]) == (1, 3, 0) and len(server.asked) == 3


@pytest.mark.parametrize("fault", AGAIN)
def test_a_fault_that_stays_is_its_reason_after_the_last_retry(
    server: BadServer, timeouts: Timeouts, fault: str
) -> None:
    server.rule = lambda asked: fault
    sleeps = Sleeps()
    client = Client("m", serving(server, retries=2), sleep=sleeps)
    assert chats(client, call()) == [AGAIN[fault]]
    account = client.account()["recall"]
    assert (account["calls"], account["attempts"], account["failures"]) == (1, 3, 1)
    assert len(server.asked) == 3 and len(sleeps.asked) == 2 and timeouts.asked == [SECONDS] * 3


def test_a_stalled_call_ends_by_the_clock(server: BadServer) -> None:
    server.rule = lambda asked: "stall in body"
    assert chats(Client("m", serving(server, retries=0, timeout=0.2)), call()) == ["timeout"]


@pytest.mark.parametrize("fault", ["half json", "extra text", "wrong schema"])
def test_the_form_of_an_answer_is_the_judges_concern(server: BadServer, fault: str) -> None:
    server.then(fault)
    (answer,) = chats(Client("m", serving(server)), call())
    assert isinstance(answer, Answer) and answer.text and answer.text != ANSWER


def test_every_fault_of_the_server_has_a_test() -> None:
    passed_on = {"good", "half json", "extra text", "wrong schema", "no usage", "odd usage", "400 echo"}
    assert set(FAULTS) == set(FINAL) | set(AGAIN) | passed_on


def test_pauses_double_to_a_limit_less_up_to_a_half(server: BadServer) -> None:
    server.rule = lambda asked: "500"
    sleeps = Sleeps()
    chats(Client("m", serving(server, retries=9), sleep=sleeps), call())
    longest = [0.5, 1, 2, 4, 8, 16, 20, 20, 20]
    assert all(most / 2 <= pause <= most for pause, most in zip(sleeps.asked, longest, strict=True))
    assert len({pause / most for pause, most in zip(sleeps.asked, longest, strict=True)}) == 9, "jitter"


def test_retry_after_is_honoured_to_a_limit(server: BadServer) -> None:
    server.then("429 after 7", "503 after 3", "429 after an hour", "429 after nonsense")
    sleeps = Sleeps()
    assert chats(Client("m", serving(server, retries=4), sleep=sleeps), call()) == [Answer(ANSWER, 100, 7, 64)]
    for pause, (least, most) in zip(sleeps.asked, [(7, 7.5), (3, 3.5), (60, 60.5), (2, 4)], strict=True):
        assert least <= pause <= most


def test_retry_after_is_a_number_a_date_or_nothing() -> None:
    assert [retry_after(header) for header in (None, "", "-5", "nan", "x", "7.5", "inf")] == [0, 0, 0, 0, 0, 7.5, 60]
    assert 25 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0
    assert retry_after("Wed, 31 Dec 9999 23:59:59 -0000") == 0, "a date without a zone is out of form"


def test_a_storm_of_429_passes_and_everything_is_answered(server: BadServer) -> None:
    server.then(*["429 after 7", "429"] * 30)
    client = Client("m", serving(server, retries=60), sleep=Sleeps())
    said: list[Any] = []
    finish(client, client.run((call(str(n)) for n in range(40)), lambda one, answer: said.append((one.route, answer))))
    assert sorted(said) == sorted((str(n), Answer(ANSWER, 100, 7, 64)) for n in range(40))
    assert client.account()["recall"] | {"calls": 40, "attempts": 100, "failures": 0} == client.account()["recall"]


def test_the_window_is_never_exceeded_whatever_is_thrown_at_it(server: BadServer) -> None:
    server.delay = 0.005
    server.then(*["500", "good", "reset"] * 20)
    client = Client("m", serving(server, in_flight=5, retries=50), sleep=Sleeps())

    async def flood() -> list[Answer]:
        return await asyncio.gather(*(client.chat(call(str(n))) for n in range(100)))

    assert len(finish(client, flood())) == 100
    assert server.peak == 5


def test_calls_of_a_long_job_are_drawn_as_places_become_free(server: BadServer) -> None:
    drawn = taken = ahead = 0

    def calls() -> Iterator[Call]:
        nonlocal drawn, ahead
        for n in range(200):
            drawn, ahead = drawn + 1, max(ahead, drawn + 1 - taken)
            yield call(str(n))

    def take(one: Call, answer: Answer | CallFailed) -> None:
        nonlocal taken
        taken += 1

    server.then("400")
    client = Client("m", serving(server, in_flight=4))
    finish(client, client.run(calls(), take))
    assert (drawn, taken) == (200, 200) and ahead <= 4


def test_what_a_long_job_trips_over_ends_it(server: BadServer) -> None:
    def take(one: Call, answer: Answer | CallFailed) -> None:
        raise KeyError(one.route)

    client = Client("m", serving(server))
    with pytest.raises(ExceptionGroup) as found:
        finish(client, client.run((call(str(n)) for n in range(200)), take))
    assert found.group_contains(KeyError) and len(server.asked) < 200


def test_tokens_are_counted_per_kind_those_of_failures_too(server: BadServer) -> None:
    server.then("good", "cut off", "good", "no usage", "odd usage", "401", "500")
    client = Client("m", serving(server), sleep=Sleeps())
    said = chats(client, call(), call(), call(kind="answer"), *[call(kind="linguistic")] * 3, call())
    assert said[1] == "cut off" and said[3] == said[4] == Answer(ANSWER, 0, 0, 0) and said[5] == "key refused"
    counts = ("calls", "attempts", "failures", "prompt_tokens", "completion_tokens", "cached_tokens")
    assert client.account() == {
        "recall": dict(zip(counts, (3, 4, 1, 300, 21, 192), strict=True)),
        "answer": dict(zip(counts, (1, 1, 0, 100, 7, 64), strict=True)),
        "linguistic": dict(zip(counts, (3, 3, 1, 0, 0, 0), strict=True)),
    }


@pytest.mark.parametrize(("fault", "most"), [("large", 2**12), ("large, chunked", 2**20 + 2**18)])
def test_a_large_answer_is_not_read_on(
    server: BadServer, monkeypatch: pytest.MonkeyPatch, fault: str, most: int
) -> None:
    chunks: list[int] = []  # also those of the question, which the server reads
    readany = aiohttp.StreamReader.readany

    async def counted(reader: aiohttp.StreamReader) -> bytes:
        chunk = await readany(reader)
        chunks.append(len(chunk))
        return chunk

    monkeypatch.setattr(aiohttp.StreamReader, "readany", counted)
    server.then(fault)
    assert chats(Client("m", serving(server)), call()) == ["too large"]
    assert sum(chunks) <= most


def test_half_of_a_character_is_no_text() -> None:
    assert completion(b'{"choices": [{"message": {"content": "\\ud83d\\ude00"}}]}').answer.text == "\U0001f600"
    assert completion(b'{"choices": [{"message": {"content": "\\ud83d"}}]}').reason == "not a completion"
    assert completion(b'\xff{"choices": []}').reason == "not a completion"


# Endpoints


def test_a_picture_stays_with_its_endpoint_and_moves_only_while_that_is_away() -> None:
    now = [0.0]
    urls = [f"http://host-{n}:8000/v1/" for n in range(4)]
    endpoints = Endpoints(urls, lambda: now[0])
    homes = {f"{n:064x}": endpoints.order(f"{n:064x}")[0].url for n in range(400)}
    assert homes == {route: Endpoints(reversed(urls), lambda: 0.0).order(route)[0].url for route in homes}
    assert all(60 < n < 140 for n in Counter(homes.values()).values()) and len(set(homes.values())) == 4
    gone = next(endpoint for endpoint in endpoints if endpoint.url == "http://host-2:8000/v1")
    endpoints.away(gone)
    moved = {route: endpoints.order(route)[0].url for route in homes}
    assert all((moved[route] == home) == (home != gone.url) for route, home in homes.items())
    assert len({moved[route] for route, home in homes.items() if home == gone.url}) == 3, "spread over the others"
    endpoints.there(gone)
    assert {route: endpoints.order(route)[0].url for route in homes} == homes


def test_one_call_tries_whether_an_endpoint_is_back() -> None:
    now = [100.0]
    endpoints = Endpoints(["http://a/v1", "http://b/v1"], lambda: now[0])
    home, other = endpoints.order("x")
    endpoints.away(home)
    assert [endpoints.order("x")[0] for _ in range(3)] == [other] * 3
    now[0] += ASIDE_SECONDS
    assert [endpoints.order("x")[0] for _ in range(3)] == [home, other, other]
    endpoints.there(home)
    assert [endpoints.order("x")[0] for _ in range(3)] == [home] * 3


def test_calls_go_to_the_next_endpoint_while_theirs_is_dead_and_return() -> None:
    now = [0.0]
    with BadServer() as one, BadServer() as two:
        client = Client("m", serving(one, two, retries=0), sleep=Sleeps(), clock=lambda: now[0])
        calls = [call(str(n)) for n in range(20)]
        answers = [Answer(ANSWER, 100, 7, 64)] * 20
        assert chats(client, *calls) == answers
        homes = [sum(call(str(n)).messages == asked.body["messages"] for asked in one.asked) for n in range(20)]
        before = len(one.asked)
        assert 0 < before < 20 and before + len(two.asked) == 20
        one.die()
        assert chats(client, *calls) == answers and len(two.asked) == 20 - before + 20
        assert client.account()["recall"]["attempts"] == 41, "one call found out"
        one.revive()
        assert chats(client, *calls) == answers and len(one.asked) == before, "still set aside"
        now[0] += ASIDE_SECONDS
        assert chats(client, *calls) == answers and len(one.asked) == 2 * before
        again = [sum(call(str(n)).messages == asked.body["messages"] for asked in one.asked) for n in range(20)]
        assert again == [2 * n for n in homes] and client.account()["recall"]["failures"] == 0


def test_a_sick_endpoint_is_left_for_the_next_one_and_set_aside_when_it_stays_sick() -> None:
    """It takes calls and answers none: a hung server, or a dead one behind a proxy."""
    now = [0.0]
    with BadServer() as one, BadServer() as two:
        one.rule = lambda asked: "500"
        client = Client("m", serving(one, two, retries=1), sleep=Sleeps(), clock=lambda: now[0])
        calls = [call(str(n)) for n in range(20)]
        assert chats(client, *calls) == [Answer(ANSWER, 100, 7, 64)] * 20
        assert len(one.asked) == FAILURES and len(two.asked) == 20, "three failures in a row, then nobody asks it"
        now[0] += ASIDE_SECONDS
        assert chats(client, *calls) == [Answer(ANSWER, 100, 7, 64)] * 20 and len(one.asked) == FAILURES + 1
        one.rule = lambda asked: None
        now[0] += ASIDE_SECONDS
        chats(client, *calls)
        assert len(one.asked) > FAILURES + 2, "it is back"
        assert client.account()["recall"]["failures"] == 0


def test_a_single_failure_sets_nothing_aside_and_429_stays_where_it_is(server: BadServer) -> None:
    with BadServer() as other:
        client = Client("m", serving(server, other, retries=2), sleep=Sleeps(), clock=lambda: 0.0)
        home, away = (server, other) if chats(client, call("x")) and server.asked else (other, server)
        home.then("429", "429")
        assert chats(client, call("x")) == [Answer(ANSWER, 100, 7, 64)] and not away.asked
        home.then("reset")
        assert chats(client, call("x")) == [Answer(ANSWER, 100, 7, 64)] and len(away.asked) == 1
        assert chats(client, call("x")) == [Answer(ANSWER, 100, 7, 64)] and len(away.asked) == 1


def test_the_only_endpoint_dies_for_a_while(server: BadServer) -> None:
    client = Client("m", serving(server, retries=3), sleep=(sleeps := Sleeps()))
    assert chats(client, call()) == [Answer(ANSWER, 100, 7, 64)]
    server.die()
    assert chats(client, call()) == ["no endpoint"] and len(sleeps.asked) == 3
    sleeps.meanwhile = lambda: server.revive() if len(sleeps.asked) == 5 else None
    assert chats(client, call()) == [Answer(ANSWER, 100, 7, 64)]
    assert len(sleeps.asked) == 5 and client.account()["recall"]["attempts"] == 1 + 4 + 3


def test_no_endpoint_at_all_is_a_reason(server: BadServer) -> None:
    with BadServer() as other:
        pass
    server.die()
    client = Client("m", serving(server, other, retries=1), sleep=(sleeps := Sleeps()))
    assert chats(client, call()) == ["no endpoint"] and len(sleeps.asked) == 1
    assert client.account()["recall"]["attempts"] == 4
    assert chats(Client("m", serving(urls=("http://no-such-host.invalid/v1",), retries=0)), call()) == ["no endpoint"]


def test_health_is_told_per_endpoint(server: BadServer) -> None:
    with BadServer() as dead, BadServer() as ill:
        dead.die()
        ill.rule = lambda asked: "stall" if asked.body else "500"
        client = Client("m", serving(server, dead, ill, in_flight=1))

        async def look() -> dict[str, bool]:
            server.rule = lambda asked: "stall" if asked.body else None
            busy = asyncio.create_task(client.chat(call()))
            while not any(one.now for one in (server, ill)) and not busy.done():
                await asyncio.sleep(0.01)
            found = await client.healthy()  # while all places are taken
            busy.cancel()
            return found

        assert finish(client, look()) == {server.url: True, dead.url: False, ill.url: False}


# The key


def test_the_key_goes_into_the_header_and_nowhere_else(
    server: BadServer, timeouts: Timeouts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BALCAP_TEST_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    client = Client("m", serving(server, key="BALCAP_TEST_KEY", retries=1), sleep=Sleeps())
    faults = ["good", "400 echo", "401", "stall", "stall", "reset", "reset", "no http", "no http", "large"]
    server.then(*faults)
    seen = [repr(client), repr(vars(client)), str(client.account())]

    async def ask() -> None:
        for _ in range(7):
            try:
                seen.append(repr(await client.chat(call())))
            except CallFailed as failed:
                seen.extend([repr(failed), *traceback.format_exception(failed, chain=True), repr(vars(failed))])
                assert failed.__context__ is None and failed.__cause__ is None
        seen.append(repr(vars(client)))

    finish(client, ask())
    assert {asked.authorization for asked in server.asked} == {f"Bearer {KEY}"} and len(server.asked) == len(faults)
    assert "refuses a call with status 400" in caplog.text
    assert not any(KEY in text for text in (*seen, caplog.text, *map(repr, caplog.records)))


def test_a_missing_key_is_named_by_its_variable(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BALCAP_TEST_KEY", raising=False)
    for value in (None, "", "two\nlines", "ключ"):
        if value is not None:
            monkeypatch.setenv("BALCAP_TEST_KEY", value)
        with pytest.raises(ValueError, match="BALCAP_TEST_KEY") as found:
            Client("m", serving(server, key="BALCAP_TEST_KEY"))
        assert not value or value not in str(found.value)


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http:///v1", "http://me:pass@host/v1", "http://host/v1?key=pass"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"runtime\.serving") as found:
        Client("m", serving(urls=(url,)))
    assert "pass" not in str(found.value)


def test_why_a_server_refuses_is_logged_once(server: BadServer, caplog: pytest.LogCaptureFixture) -> None:
    server.rule = lambda asked: "400"
    chats(Client("m", serving(server)), *[call()] * 3)
    assert caplog.text.count("max_tokens is too large") == 1


# Loops


def test_a_client_goes_from_loop_to_loop_and_leaves_nothing_behind(
    server: BadServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client("m", serving(server))
    for _ in range(2):
        with Background() as loop:
            assert loop.run(client.chat(call()), SECONDS).text == ANSWER
            assert loop.run(client.healthy(), SECONDS) == {server.url: True}
        assert asyncio.run(client.chat(call())).text == ANSWER, "a loop that ends without close()"
    asyncio.run(client.close())
    del client
    gc.collect()
    assert len(server.asked) == 4 and "nclosed" not in caplog.text, "no complaint of aiohttp"


def test_two_loops_at_once_have_a_window_each(server: BadServer) -> None:
    server.delay = 0.01
    client = Client("m", serving(server, in_flight=3))
    with Background() as one, Background() as two:
        futures: list[Future[Answer]] = []
        for n in range(40):
            futures.append((one, two)[n % 2].submit(client.chat(call(str(n)))))
        assert all(future.result(SECONDS).text == ANSWER for future in futures)
        assert 3 < server.peak <= 6
        one.run(client.close(), SECONDS)
        assert two.run(client.chat(call()), SECONDS).text == ANSWER, "a closed client opens anew"
        two.run(client.close(), SECONDS)


def test_closing_ends_calls_under_way_in_every_loop(server: BadServer) -> None:
    server.rule = lambda asked: "stall"
    client = Client("m", serving(server, retries=5), sleep=Sleeps())
    with Background() as one, Background() as two:
        waiting = [loop.submit(client.chat(call())) for loop in (one, two)]
        wait_for(lambda: server.now == 2)
        one.run(client.close(), SECONDS)
        for future in waiting:
            with pytest.raises(CallFailed, match=r"connection|closed"):
                future.result(SECONDS)
    assert len(server.asked) == 2, "none begins anew"


def test_a_cancelled_call_frees_its_place_and_its_connection(server: BadServer) -> None:
    server.then("stall", "good")
    client = Client("m", serving(server, in_flight=1))
    with Background() as loop:
        stalled = loop.submit(client.chat(call()))
        wait_for(lambda: server.now == 1)
        stalled.cancel()
        assert loop.run(client.chat(call()), SECONDS).text == ANSWER
        wait_for(lambda: server.now == 0)  # the server sees that nobody waits, and can stop its work
        loop.run(client.close(), SECONDS)


def wait_for(happened: Callable[[], bool]) -> None:
    """Until it is so; fails after ``SECONDS``."""
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_wait_for_the_whole_is_the_callers_and_ends_on_time(server: BadServer) -> None:
    server.rule = lambda asked: "429 after an hour"
    client = Client("m", serving(server))  # with the real sleep: a minute

    with pytest.raises(TimeoutError):
        finish(client, asyncio.wait_for(client.chat(call()), 0.3))
