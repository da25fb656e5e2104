"""The cache of answers: asked once whoever asks, kept through kill -9, bounded, and never in the way of an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from balcap.cli import app
from balcap.llm import cache_file, claims
from balcap.llm.cache import AnswerCache, key
from balcap.llm.cache_db import ForeignFile

ROOT = Path(__file__).parents[2]
HANG = 300.0
"""Seconds after which a test that hangs fails; no test waits for it."""
WORKER = """
import asyncio, json, os, sys
from pathlib import Path
from balcap.llm.cache import AnswerCache

path, log, streams, group = json.loads(sys.argv[1])

async def ask(key):
    with open(log, "a") as asked:
        asked.write(key + "\\n")
    if key == "hang":
        await asyncio.Event().wait()
    await asyncio.sleep(0.002)
    return "answer to " + key

async def main(keys):
    cache = AnswerCache(Path(path))
    places = asyncio.Semaphore(4)

    async def one(part):
        async with places:
            assert await cache.answers(part, ask, 600.0) == {key: "answer to " + key for key in part}

    await asyncio.gather(*(one(keys[i : i + group]) for i in range(0, len(keys), group)))
    cache.close()

for keys in streams[1:]:  # imported once, then one process per stream
    if os.fork() == 0:
        streams = [keys]
        break
else:
    keys = streams[0]
asyncio.run(main(keys))
sys.exit(any(os.wait()[1] for _ in streams[1:]))
"""


class Asker:
    """Asks, and counts; ``hold`` keeps the answers back until it is set."""

    def __init__(self, hold: asyncio.Event | None = None) -> None:
        self.asked: list[str] = []
        self.hold = hold

    async def __call__(self, key: str) -> str:
        self.asked.append(key)
        if self.hold:
            await self.hold.wait()
        return f"answer to {key}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "judge" / "answers.sqlite"


def get(cache: AnswerCache, *keys: str, ask: Callable[[str], Awaitable[str]] | None = None) -> dict[str, object]:
    return dict(asyncio.run(cache.answers(keys, ask or Asker(), HANG)))


@contextmanager
def worker(path: Path, log: Path, streams: list[list[str]], group: int = 6) -> Iterator[subprocess.Popen[str]]:
    """A process per stream of keys, which begin together; the first, and the parent of the others, is yielded."""
    log.touch()
    command = [sys.executable, "-c", WORKER, json.dumps([str(path), str(log), streams, group])]
    with subprocess.Popen(command, text=True, cwd=ROOT) as running:
        try:
            yield running
        finally:
            running.kill()


def work(path: Path, log: Path, streams: list[list[str]], group: int = 6) -> Counter[str]:
    """How often each key was asked, in all, when all processes have their answers."""
    with worker(path, log, streams, group) as running:
        assert running.wait(HANG) == 0
    return Counter(log.read_text().split())


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def soon(true: Callable[[], bool]) -> None:
    await asyncio.wait_for(asyncio.to_thread(until, true), HANG)


def test_key_knows_where_parts_end() -> None:
    assert key("ab", "c") != key("a", "bc") != key("a", "bc", "")
    assert key("é", "\ud800") == key("é", "\ud800")
    assert len(key()) == 64


def test_equal_keys_in_flight_are_asked_once(path: Path) -> None:
    async def scene() -> list[dict[str, object]]:
        ask.hold = asyncio.Event()
        asyncio.get_running_loop().call_later(0, ask.hold.set)
        return await asyncio.gather(*(cache.answers(["a"], ask, HANG) for _ in range(100)))

    cache, ask = AnswerCache(path), Asker()
    assert asyncio.run(scene()) == [{"a": "answer to a"}] * 100
    assert ask.asked == ["a"]
    assert (cache.hits, cache.misses, cache.waited, cache.stored) == (0, 1, 99, 1)
    assert get(cache, "a", "a") == {"a": "answer to a"}
    assert (cache.hits, cache.misses) == (1, 1)
    cache.close()


def test_two_caches_of_one_process_ask_once(path: Path) -> None:
    async def scene() -> list[dict[str, object]]:
        return await asyncio.gather(*(cache.answers(["a", "b"], ask, HANG) for cache in both))

    both, ask = (AnswerCache(path), AnswerCache(path)), Asker()
    assert asyncio.run(scene()) == [{"a": "answer to a", "b": "answer to b"}] * 2
    assert sorted(ask.asked) == ["a", "b"]
    for cache in both:
        cache.close()


def test_four_processes_ask_each_key_once(path: Path, tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(120)]
    streams = [random.Random(seed).sample(keys, len(keys)) for seed in range(4)]
    assert work(path, tmp_path / "log", streams) == Counter(keys)


def test_calls_issued_are_calls_needed(path: Path, tmp_path: Path) -> None:
    """A stream with 30 % duplicates over two processes, cold; then warm: not one call more."""
    draw = random.Random(0)
    distinct = [f"k{i}" for i in range(350)]
    stream = distinct + draw.choices(distinct, k=150)
    draw.shuffle(stream)
    halves = [stream[::2], stream[1::2]]
    asked = work(path, tmp_path / "log", halves)
    assert asked.total() / len(distinct) == 1.0
    assert work(path, tmp_path / "log", halves) == asked


def test_a_killed_process_gives_its_claims_up(path: Path, tmp_path: Path) -> None:
    async def scene(victim: subprocess.Popen[str]) -> dict[str, object]:
        waiting = asyncio.ensure_future(cache.answers(["hang"], ask, 10 * HANG))
        await soon(lambda: any(here.watched for here in cache._loops.values()))
        assert ask.asked == []
        victim.kill()  # not reaped: a zombie asks nothing either
        return await asyncio.wait_for(waiting, HANG)

    cache, ask, log = AnswerCache(path), Asker(), tmp_path / "log"
    with worker(path, log, [["hang"]]) as victim:
        until(lambda: log.read_text() == "hang\n")
        assert asyncio.run(scene(victim)) == {"hang": "answer to hang"}
    assert ask.asked == ["hang"]
    assert (cache.misses, cache.stored) == (1, 1)
    cache.close()


def test_killed_in_the_middle_of_writing_nothing_stored_is_lost(path: Path, tmp_path: Path) -> None:
    log, keys = tmp_path / "log", [f"k{i}" for i in range(600)]
    with worker(path, log, [keys]) as victim:
        until(lambda: len(log.read_text().split()) > 200)
        victim.kill()
        victim.wait(HANG)
    asked = work(path, log, [keys])
    assert set(asked) == set(keys)
    assert asked.total() - len(keys) <= 4 * 6, "no more than what was in flight is asked again"
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM claims").fetchone() == (0,)


@pytest.mark.parametrize(
    ("host", "pid", "start", "ends", "held"),
    [
        (claims.here(), os.getpid(), claims.started(os.getpid()), 60.0, True),
        (claims.here(), os.getpid(), claims.started(os.getpid()), -1.0, False),
        (claims.here(), os.getpid(), "a process before us with the same id", 60.0, False),
        (claims.here(), 2**22 + 1, "1", 60.0, False),
        ("another host", os.getpid(), "1", 60.0, True),
        ("another host", os.getpid(), "1", -1.0, False),
    ],
    ids=["ours", "ours, over", "another start", "no such process", "elsewhere", "elsewhere, over"],
)
def test_whose_claims_hold(path: Path, host: str, pid: int, start: str, ends: float, held: bool) -> None:
    AnswerCache(path).close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("INSERT INTO claims VALUES ('a', ?, ?, ?, 'token', ?)", (host, pid, start, time.time() + ends))
    assert claims.unclaimed(db, ["a", "b"]) == (["b"] if held else ["a", "b"])
    claims.sweep(db)
    assert db.execute("SELECT count(*) FROM claims").fetchone() == (int(held),)


def test_what_an_ask_raises_is_returned_and_asked_again(path: Path) -> None:
    async def ask(key: str) -> str:
        asked.append(key)
        await asyncio.sleep(0)
        if key == "bad" and asked.count("bad") == 1:
            raise error
        return f"answer to {key}"

    async def scene() -> list[dict[str, object]]:
        return await asyncio.gather(*(cache.answers(["good", "bad"], ask, HANG) for _ in range(3)))

    cache, asked, error = AnswerCache(path), list[str](), OSError("no endpoint")
    assert asyncio.run(scene()) == [{"good": "answer to good", "bad": error}] * 3, "who waits shares the error"
    assert sorted(asked) == ["bad", "good"]
    assert cache.stats()["answers"] == 1
    assert get(cache, "good", "bad", ask=ask) == {"good": "answer to good", "bad": "answer to bad"}
    assert asked.count("bad") == 2
    cache.close()


def test_a_cancellation_inside_an_ask_is_a_value_too(path: Path) -> None:
    async def ask(key: str) -> str:
        raise asyncio.CancelledError

    cache = AnswerCache(path)
    assert isinstance(get(cache, "a", ask=ask)["a"], asyncio.CancelledError)
    assert isinstance(get(cache, "a", ask=lambda key: asyncio.sleep(0))["a"], TypeError)  # type: ignore[arg-type,return-value]
    assert get(cache, "a") == {"a": "answer to a"}
    cache.close()


def test_when_the_asker_is_cancelled_one_who_waits_takes_over(path: Path) -> None:
    async def scene() -> dict[str, object]:
        first = Asker(asyncio.Event())
        asking = asyncio.ensure_future(cache.answers(["a"], first, HANG))
        await soon(lambda: first.asked == ["a"])
        waiting = [asyncio.ensure_future(cache.answers(["a"], ask, HANG)) for _ in range(5)]
        await asyncio.sleep(0)
        asking.cancel()
        found = await asyncio.gather(*waiting)
        assert asking.cancelled()
        assert found == [found[0]] * 5
        return found[0]

    cache, ask = AnswerCache(path), Asker()
    assert asyncio.run(scene()) == {"a": "answer to a"}
    assert ask.asked == ["a"]
    cache.close()


def test_the_deadline_ends_an_ask_and_its_claim(path: Path) -> None:
    async def scene() -> dict[str, object]:
        return await cache.answers(["a"], Asker(asyncio.Event()), 0.1)

    cache, other = AnswerCache(path), AnswerCache(path)
    assert isinstance(asyncio.run(scene())["a"], TimeoutError)
    assert get(other, "a") == {"a": "answer to a"}
    assert get(cache, "a") == {"a": "answer to a"}
    assert cache.stored == 0
    assert isinstance(asyncio.run(cache.answers(["b"], Asker(), 0.0))["b"], TimeoutError)
    for one in (cache, other):
        one.close()


def test_answers_come_back_as_they_were(path: Path) -> None:
    texts = {"empty": "", "half a pair": '{"t": "\ud83d"}', "nul": "a\0b", "wide": "日本語 🐈" * 1000}

    async def ask(key: str) -> str:
        return texts[key]

    cache = AnswerCache(path)
    assert get(cache, *texts, ask=ask) == texts
    cache.close()
    cache, unasked = AnswerCache(path), Asker()
    assert get(cache, *texts, ask=unasked) == texts
    assert (unasked.asked, cache.hits, cache.misses) == ([], 4, 0)
    assert cache.export(path.parent / "out.parquet") == 4
    cache.close()


def test_a_warm_group_is_one_query_and_no_write(path: Path) -> None:
    groups = [[key(str(i), str(j)) for j in range(24)] for i in range(50)]
    cache, ask = AnswerCache(path), Asker()
    for group in groups:
        get(cache, *group)
    cache._file._pool.submit(lambda: None).result()  # what writing leaves to do is done
    read, written = list[str](), list[str]()
    cache._file._read.set_trace_callback(read.append)
    cache._file._write.set_trace_callback(written.append)
    for group in groups:
        assert len(get(cache, *group, ask=ask)) == 24
    assert (len(read), written, ask.asked) == (50, [], [])
    cache.close()


def test_what_comes_together_is_written_together(path: Path) -> None:
    """Claims and answers of a group take a few transactions, not two per key."""
    cache, written = AnswerCache(path), list[str]()
    cache._file._write.set_trace_callback(written.append)
    held = cache._file._pool.submit(until, lambda: len(cache._file._queue) == 200)
    get(cache, *(f"k{i}" for i in range(200)))
    held.result(HANG)
    assert sum(statement == "COMMIT" for statement in written) <= 200
    cache.close()


@pytest.mark.parametrize("damage", ["garbage", "no pages", "leaves"])
def test_a_damaged_file_is_set_aside(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = AnswerCache(path)
    get(cache, *(f"k{i}" for i in range(500)))
    cache.prune(10**9)  # the log into the file
    if damage != "leaves":
        cache.close()
    whole = path.read_bytes()
    spoilt = {
        "garbage": b"no database at all\n" * 1000,
        "no pages": whole[:4096],
        "leaves": whole[: 6 * 4096] + b"\xff" * (len(whole) - 6 * 4096),  # behind the roots: found when read
    }[damage]
    path.write_bytes(spoilt)
    if damage != "leaves":
        cache = AnswerCache(path)
    else:
        cache._file._read = cache_file.open_reader(path)  # what was read is not read again
    with caplog.at_level(logging.WARNING):
        assert get(cache, "k1", "new") == {"k1": "answer to k1", "new": "answer to new"}
    assert path.with_name("answers.sqlite.corrupt-1").read_bytes() == spoilt
    assert "set aside as answers.sqlite.corrupt-1" in caplog.text
    assert not path.with_name("answers.sqlite.corrupt-2").exists()
    get(cache, "k1", "new")  # found damaged while in use, the first answers may have been asked unclaimed and unkept
    cache.close()
    again, ask = AnswerCache(path), Asker()
    assert len(get(again, "k1", "new", ask=ask)) == 2
    assert (ask.asked, again.memory) == ([], False)
    again.close()


def test_processes_that_find_a_damaged_file_set_it_aside_once(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all\n" * 1000)
    keys = [f"k{i}" for i in range(30)]
    assert work(path, tmp_path / "log", [keys, keys[::-1]] * 2) == Counter(keys)
    assert [p.name for p in path.parent.glob("*.corrupt-*")] == ["answers.sqlite.corrupt-1"]


def test_a_database_of_something_else_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE runs (id)")
    before = path.read_bytes()
    with pytest.raises(ForeignFile, match="no cache of answers"):
        AnswerCache(path)
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*corrupt*"))


@pytest.mark.parametrize("obstacle", ["the folder is a file", "the file is a folder", "read-only folder"])
def test_where_nothing_can_be_written_answers_are_kept_in_memory(
    path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    if obstacle == "the folder is a file":
        path.parent.touch()
    elif obstacle == "the file is a folder":
        path.mkdir(parents=True)
    elif os.geteuid() == 0:
        pytest.skip("nothing is read-only for root")
    else:
        path.parent.mkdir(mode=0o500)
    cache, ask = AnswerCache(path, 300_000), Asker()
    for _ in range(2):
        assert get(cache, "a", "b", ask=ask) == {"a": "answer to a", "b": "answer to b"}
    assert ask.asked == ["a", "b"]
    assert (cache.memory, cache.hits, cache.stored, cache.stats()["answers"]) == (True, 2, 2, 2)
    assert len(caplog.records) == 1 and str(path) in caplog.text
    get(cache, *(f"{i}" for i in range(3000)))
    assert 0 < cache.stats()["answers"] < 3000 and cache.stats()["bytes"] <= 300_000
    assert cache.prune(0) > 0
    cache.close()


def test_a_disk_that_fails_costs_the_saving_and_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache, ask = AnswerCache(path), Asker()
    get(cache, "a")
    cache._file._write.execute("PRAGMA query_only = 1")  # as a disk that is full, or mounted anew
    for _ in range(2):
        assert get(cache, "a", "b", ask=ask) == {"a": "answer to a", "b": "answer to b"}
    assert ask.asked == ["b", "b"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    cache._file._write.execute("PRAGMA query_only = 0")
    assert [get(cache, "b", ask=ask), get(cache, "b", ask=ask)] == [{"b": "answer to b"}] * 2
    assert ask.asked == ["b"] * 3
    cache.close()


def on_disk(path: Path) -> int:
    return sum(p.stat().st_size for p in (path, path.with_name(f"{path.name}-wal")))


def test_the_bound_is_kept_by_forgetting_what_was_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(key: str) -> str:
        return "x" * 2000

    monkeypatch.setattr(cache_file, "TOUCH_AFTER", -1.0)  # every hit renews
    cache = AnswerCache(path, 5_000_000)
    for i in range(60):
        get(cache, "kept", *(f"{i}-{j}" for j in range(50)), ask=ask)
        assert on_disk(path) <= 5_000_000
    monkeypatch.setattr(cache_file, "TOUCH_AFTER", 3600.0)
    newest = [f"59-{j}" for j in range(50)]
    assert set(cache._file.lookup(["kept", *newest, "0-1", "1-1"])) == {"kept", *newest}
    assert 1000 < cache.stats()["answers"] < 2500 < 60 * 50
    cache.close()


def test_prune_takes_the_least_recently_used_and_gives_room_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{i}" for i in range(2000)]
    cache = AnswerCache(path)
    for i in range(0, 2000, 100):
        get(cache, *keys[i : i + 100])
    monkeypatch.setattr(cache_file, "TOUCH_AFTER", -1.0)
    get(cache, *keys[:100])
    monkeypatch.undo()
    cache.close()  # renewals are written at last here
    cache = AnswerCache(path)
    removed = cache.prune(100_000)
    left = cache._file.lookup(keys)
    assert 0 < removed == 2000 - len(left) < 2000
    assert list(left) and set(keys[:100]) <= set(left) and "100" not in left and "1999" in left
    assert on_disk(path) <= 100_000
    assert cache.prune(100_000) == 0
    cache.close()


def filled(path: Path) -> AnswerCache:
    cache = AnswerCache(path)
    note = {"b": ("precision", "p1"), "a": ("recall", "p1"), "c": ("precision", "p2")}
    asyncio.run(cache.answers(["b", "a", "c", "d"], Asker(), HANG, note))
    return cache


def test_stats_and_export(path: Path, tmp_path: Path) -> None:
    cache = filled(path)
    found = cache.stats()
    assert (found["answers"], found["pictures"], found["stored"], found["memory"]) == (4, 2, 4, False)
    assert found["kinds"]["precision"] == {"answers": 2, "bytes": 2 * len("answer to b")}
    assert found["bytes"] == on_disk(path)
    assert cache.export(tmp_path / "out.parquet") == 4
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"key": key, "kind": kind, "image_id": picture, "answer": f"answer to {key}"}
        for key, kind, picture in [
            ("a", "recall", "p1"),
            ("b", "precision", "p1"),
            ("c", "precision", "p2"),
            ("d", "", ""),
        ]
    ]
    cache.close()
    cache.close()
    with pytest.raises(RuntimeError, match="closed"):
        get(cache, "a")


def test_commands(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path))
    run = CliRunner()
    missing = run.invoke(app, ["judge", "cache", "stats"])
    assert missing.exit_code == 1 and str(path) in missing.output
    assert not path.exists(), "looking makes nothing"
    filled(path).close()
    shown = run.invoke(app, ["judge", "cache", "stats"]).output
    assert "precision            2" in shown and "all                  4" in shown and "2 pictures" in shown
    assert json.loads(run.invoke(app, ["judge", "cache", "stats", "--json"]).output)["answers"] == 4
    out = tmp_path / "out.parquet"
    assert "4 answers" in run.invoke(app, ["judge", "cache", "export", str(out)]).output
    assert pq.read_table(out).num_rows == 4
    assert "4 answers removed; 0 are left" in run.invoke(app, ["judge", "cache", "prune", "--to", "0"]).output
    assert run.invoke(app, ["judge", "cache", "prune", "--to", "much"]).exit_code == 2
    assert "all" in run.invoke(app, ["judge", "cache", "stats"]).output


def test_commands_leave_other_files_alone(tmp_path: Path) -> None:
    other = tmp_path / "params.yaml"
    other.write_text("recipe: embedded\n")
    done = CliRunner().invoke(app, ["judge", "cache", "prune", "--to", "0", "--file", str(other)])
    assert done.exit_code == 1 and "no cache of answers" in done.output
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(("text", "n"), [("0", 0), ("1000", 1000), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000)])
def test_sizes(text: str, n: int) -> None:
    from balcap.cli_judge import in_bytes

    assert in_bytes(text) == n
