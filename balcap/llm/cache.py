"""The cache of answers: what a model was asked once is never asked again, by nobody who shares the file.

    cache = AnswerCache(workspace.work_root() / "judge" / "answers.sqlite")
    one = key("judge@revision", image_id, prompt, caption)               # everything that the answer depends on
    answers = await cache.answers([one], ask, deadline=60.0, note={one: ("precision", image_id)})

Raw answers are stored, so that scoring is a pure function of them. A question in flight is asked once: inside an event
loop the others wait for the same future, between processes for a claim that ends with its process (``claims.py``). So
calls issued = calls needed, also when processes are killed. ``balcap judge cache`` shows, prunes and exports the file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from balcap.files import atomic_path
from balcap.llm import claims
from balcap.llm.cache_db import decode, filled, plain, store
from balcap.llm.cache_file import AnswerFile
from balcap.llm.claims import Claim

POLL = 0.02
"""Seconds between two looks at keys that another process is asking."""
GRACE = 5.0
"""Seconds by which a claim outlasts the deadline of its owner."""
NO_NOTES: Mapping[str, tuple[str, str]] = {}
Outcome = str | BaseException


def key(*parts: str) -> str:
    """sha256 (hex) of the parts, each behind its length, so that no two lists of parts are the same text."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


@dataclass(slots=True)
class _Wish:
    """One missing key: how to ask for it, until when (wall clock), and what became of it."""

    key: str
    ask: Callable[[str], Awaitable[str]]
    note: tuple[str, str]
    token: str
    until: float
    asked: bool = False
    outcome: Outcome | None = None


@dataclass
class _Here:
    """What one event loop is waiting for: keys that a task in it is getting, and those claimed by other processes."""

    flights: dict[str, asyncio.Future[Outcome | None]] = field(default_factory=dict)
    watched: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    polling: bool = False


class AnswerCache:
    """See the module's text. Counts keys: ``hits``, ``misses`` (asked by us), ``waited`` (asked by others), ``stored``.

    At most ``max_bytes`` on disk: the least recently used answers go first (times of use are kept to the hour). Raises
    ``ForeignFile`` (a ``ValueError``) if ``path`` is a database of something else. Open it after a fork, not before.
    """

    def __init__(self, path: Path, max_bytes: int = 2_000_000_000) -> None:
        self._file = AnswerFile(Path(path), max_bytes)
        self._name, self._serial = uuid.uuid4().hex, count()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Here] = WeakKeyDictionary()
        self.hits = self.misses = self.waited = self.stored = 0

    @property
    def memory(self) -> bool:
        """Whether the file cannot be used, so that answers last no longer than this object."""
        return self._file.memory

    async def answers(
        self,
        keys: Sequence[str],
        ask: Callable[[str], Awaitable[str]],
        deadline: float,
        note: Mapping[str, tuple[str, str]] = NO_NOTES,
    ) -> dict[str, Outcome]:
        """Per key its answer, stored or asked now; or what ``ask`` raised, or ``TimeoutError`` after ``deadline`` (s).

        One lookup for all. Errors are never stored: who asks later, asks again; who asked the same meanwhile in this
        loop shares the error. ``note[key] = (kind, image_id)`` is for stats and export. Raises ``RuntimeError`` when
        closed. The deadline and a cancellation end what it asks; others who wait for that take over.
        """
        if self._file.closed:
            raise RuntimeError("the cache of answers is closed")
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Outcome] = dict(self._file.lookup(wanted))
        self.hits += len(found)
        if len(found) == len(wanted):
            return found
        until = time.time() + deadline + GRACE
        missing = [key for key in wanted if key not in found]
        wishes = [_Wish(key, ask, note.get(key, ("", "")), self._token(), until) for key in missing]
        await self._get_all(wishes, deadline)
        late = TimeoutError(f"no answer within {deadline:g} s")
        return found | {wish.key: late if wish.outcome is None else wish.outcome for wish in wishes}

    def stats(self) -> dict[str, Any]:
        """Answers and bytes in all and per kind, pictures, and this object's counters; may raise ``sqlite3.Error``."""
        query = "SELECT kind, count(*), sum(length(answer)) FROM answers GROUP BY kind ORDER BY kind"
        with self._file.reader() as db:
            kinds = {kind: {"answers": n, "bytes": size} for kind, n, size in db.execute(query)}
            (pictures,) = db.execute("SELECT count(DISTINCT image_id) FROM answers WHERE image_id != ''").fetchone()
            size = filled(db)
        if not self.memory:
            size = sum(os.path.getsize(p) for s in ("", "-wal") if os.path.exists(p := f"{self._file.path}{s}"))
        return {
            "path": str(self._file.path),
            "memory": self.memory,
            "answers": sum(found["answers"] for found in kinds.values()),
            "pictures": pictures,
            "bytes": size,
            "kinds": kinds,
            **{name: getattr(self, name) for name in ("hits", "misses", "waited", "stored")},
        }

    def prune(self, max_bytes: int) -> int:
        """Delete answers, least recently used first, until the file has at most ``max_bytes``; returns how many."""
        return self._file.shrink(max_bytes)

    def export(self, path: Path) -> int:
        """Write all answers as parquet (key, kind, image_id, answer), sorted by key; returns how many."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, pa.string()) for name in ("key", "kind", "image_id", "answer")])
        query = "SELECT key, kind, image_id, answer FROM answers WHERE key > ? ORDER BY key LIMIT 5000"
        written, last = 0, ""
        with (
            self._file.reader() as db,
            atomic_path(path) as tmp,
            pq.ParquetWriter(tmp, schema, compression="zstd") as out,
        ):
            while rows := db.execute(query, (last,)).fetchall():  # in pieces: a long read would hold up the log
                columns = list(zip(*((*rest, plain(decode(answer))) for *rest, answer in rows), strict=True))
                out.write_table(pa.table([pa.array(column, pa.string()) for column in columns], schema=schema))
                written, last = written + len(rows), rows[-1][0]
        return written

    def close(self) -> None:
        """Write what is due and let go of the file."""
        self._file.close()

    def _token(self) -> str:
        return f"{self._name}:{next(self._serial)}"

    def _here(self) -> _Here:
        return self._loops.setdefault(asyncio.get_running_loop(), _Here())

    async def _get_all(self, wishes: list[_Wish], deadline: float) -> None:
        tasks = {asyncio.ensure_future(self._get(wish)) for wish in wishes}
        try:
            done, _ = await asyncio.wait(tasks, timeout=max(0.0, deadline))
        finally:
            for task in tasks:
                task.cancel()  # not awaited: what is slow to let go is late all the same, and its answer still kept
            asked = sum(wish.asked for wish in wishes)
            self.misses += asked
            self.waited += len(wishes) - asked
        for task in done:
            task.result()  # outcomes are values; an exception here is our own fault

    async def _get(self, wish: _Wish) -> None:
        """Wait for the task of this loop that is getting the key; become it if there is none, or if it gave up."""
        here = self._here()
        while flight := here.flights.get(wish.key):
            if (outcome := await asyncio.shield(flight)) is not None:
                wish.outcome = outcome
                return
        flight = here.flights[wish.key] = asyncio.get_running_loop().create_future()
        try:
            await self._obtain(wish)
        finally:
            del here.flights[wish.key]
            flight.set_result(wish.outcome)  # None when cancelled: our deadline is not that of the others

    async def _obtain(self, wish: _Wish) -> None:
        """The answer, asked under a claim or by another process."""
        settled = False
        try:
            if (claimed := await self._claim(wish)) is not None:
                settled, wish.outcome = True, claimed
                return
            wish.asked = True
            wish.outcome = await self._ask(wish)
            if isinstance(wish.outcome, str):
                settled = await self._keep(wish, wish.outcome)
        finally:
            if not settled:
                self._file.submit(partial(claims.release, key=wish.key, token=wish.token))

    async def _claim(self, wish: _Wish) -> str | None:
        """``None`` if the key is ours to ask; else the answer that another process got."""
        op = partial(claims.claim, key=wish.key, token=wish.token, until=wish.until)
        while (outcome := await asyncio.wrap_future(self._file.submit(op))) is Claim.TAKEN:
            await self._freed(wish.key)
        return decode(outcome) if isinstance(outcome, bytes) else None  # a file in trouble: better twice than never

    async def _freed(self, key: str) -> None:
        """Wait until no living process claims the key."""
        here, loop = self._here(), asyncio.get_running_loop()
        freed = here.watched[key] = loop.create_future()
        if not here.polling:
            here.polling = True
            loop.call_later(POLL, self._poll, here, loop)
        try:
            await freed
        finally:
            here.watched.pop(key, None)

    def _poll(self, here: _Here, loop: asyncio.AbstractEventLoop) -> None:
        """One look for everybody in this loop who waits for other processes."""
        for key in self._file.unclaimed(list(here.watched)):
            if not (freed := here.watched.pop(key)).done():
                freed.set_result(None)
        here.polling = bool(here.watched)
        if here.polling:
            loop.call_later(POLL, self._poll, here, loop)

    async def _ask(self, wish: _Wish) -> Outcome:
        """What ``ask`` says or raises; it is a boundary, and its failure is a value."""
        try:
            answer = await wish.ask(wish.key)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error  # something inside was cancelled, not we
        except Exception as error:
            return error
        return answer if isinstance(answer, str) else TypeError(f"{type(answer).__name__} is no answer")

    async def _keep(self, wish: _Wish, answer: str) -> bool:
        """Store an answer; false if that failed. It is done also when nobody waits any more."""
        op = partial(store, key=wish.key, token=wish.token, note=wish.note, answer=answer)
        kept = await asyncio.wrap_future(self._file.submit(op))
        self.stored += kept if isinstance(kept, int) else 0
        return isinstance(kept, int)
