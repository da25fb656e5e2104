"""The file under the cache of answers, read in the caller's thread and written in one of its own.

    file = AnswerFile(path, max_bytes=2_000_000_000)
    found = file.lookup(keys)                        # one query; readers never wait for writers
    stored = file.submit(partial(store, ...))        # what comes together is one transaction

The disk may fail and the file may be damaged or unwritable: that costs the saving and a warning, never an answer.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from balcap.files import Busy, locked
from balcap.llm import claims
from balcap.llm.cache_db import (
    READ_WAIT,
    connect,
    damaged,
    decode,
    evict,
    filled,
    find,
    inode,
    open_memory,
    open_reader,
    open_sound,
    set_aside,
    shrink,
    transaction,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
Op = Callable[[sqlite3.Connection], T]
ROOM, AFTER = 0.90, 0.98
"""Share of the bound that the pages may fill (the log needs some, too), and of that what eviction leaves."""
OPEN_WAIT = 30.0
"""Seconds to wait for another process that is opening the file."""
TOUCH_AFTER, TOUCH_MANY = 3600.0, 4096
"""A hit renews the time of use only if that is so old (s); this many renewals are written without another reason."""


class AnswerFile:
    """See the module's text. ``memory`` says that the answers last no longer than this object."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.max_bytes = path.absolute(), max_bytes
        self.memory = self.closed = self._warned = self._planned = False
        self._queue: list[tuple[Op[Any], Future[Any]]] = []
        self._touched: dict[str, float] = {}
        self._lock, self._reading = threading.Lock(), threading.RLock()
        self._open(None)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answers")

    def lookup(self, keys: Sequence[str]) -> dict[str, str]:
        """The stored answers among ``keys``; a file in trouble has none."""
        none: list[tuple[str, bytes, float]] = []
        rows = self._read_or(lambda db: find(db, keys), none)
        fresh = time.time() - TOUCH_AFTER
        if old := [key for key, _, used in rows if used < fresh]:
            self._touch(old)
        return {key: decode(answer) for key, answer, _ in rows}

    def unclaimed(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that nobody alive is asking; all of them when the file is in trouble."""
        return self._read_or(lambda db: claims.unclaimed(db, keys), list(keys))

    def submit(self, op: Op[T]) -> Future[T | Exception]:
        """Run ``op`` in the next transaction; the future holds its result, or the error as a value."""
        future: Future[T | Exception] = Future()
        with self._lock:
            if self.closed:
                future.set_result(sqlite3.ProgrammingError("the cache is closed"))
            else:
                self._queue.append((op, future))
                self._plan()
        return future

    def shrink(self, max_bytes: int) -> int:
        """Delete answers, least recently used first, to ``max_bytes`` on disk; how many. Raises ``sqlite3.Error``."""
        return self._pool.submit(self._shrink, max_bytes).result()

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection for long reading that holds nobody up; its queries may raise ``sqlite3.Error``."""
        if self.memory:
            with self._reading:
                yield self._read
            return
        db = connect(self.path, READ_WAIT)
        try:
            yield db
        finally:
            db.close()

    def close(self) -> None:
        """Write what is due and let go of the file; a second call does nothing."""
        with self._lock:
            if self.closed:
                return
            self._plan()
            self.closed = True
        self._pool.shutdown()
        with self._reading:
            self._read.close()
            self._write.close()

    def _read_or(self, op: Op[T], otherwise: T) -> T:
        with self._reading:
            db = self._read
            try:
                return op(db)
            except sqlite3.Error as error:
                self._trouble(error, db)
                return otherwise

    def _touch(self, keys: list[str]) -> None:
        with self._lock:
            self._touched |= dict.fromkeys(keys, time.time())
            if len(self._touched) >= TOUCH_MANY and not self.closed:
                self._plan()

    def _plan(self) -> None:
        if not self._planned:
            self._planned = True
            self._pool.submit(self._drain)

    def _drain(self) -> None:
        """One transaction for everything that waits; whatever fails, everybody who waits hears of it."""
        with self._lock:
            batch, touched = self._queue, self._touched
            self._queue, self._touched, self._planned = [], {}, False
        db = self._write
        try:
            with self._alone():
                results = self._commit(db, [op for op, _ in batch], touched)
        except Exception as error:
            results = [error] * len(batch)
            self._trouble(error, db)
        for (_, future), result in zip(batch, results, strict=True):
            if future.set_running_or_notify_cancel():  # done all the same when nobody waits any more
                future.set_result(result)
        self._bound(db)

    def _commit(self, db: sqlite3.Connection, ops: list[Op[Any]], touched: dict[str, float]) -> list[Any]:
        with transaction(db):
            results = [op(db) for op in ops]
            renewed = [(used, key) for key, used in touched.items()]
            db.executemany("UPDATE answers SET used = ? WHERE key = ?", renewed)
        return results

    def _bound(self, db: sqlite3.Connection) -> None:
        try:
            with self._alone():
                if filled(db) > ROOM * self.max_bytes:
                    evict(db, int(AFTER * ROOM * self.max_bytes))
        except sqlite3.Error as error:
            self._trouble(error, db)

    def _shrink(self, max_bytes: int) -> int:
        with self._alone():
            return shrink(self._write, max_bytes)

    def _alone(self) -> AbstractContextManager[Any]:
        """In memory, reading and writing share one connection and take turns."""
        return self._reading if self.memory else nullcontext()

    def _trouble(self, error: Exception, db: sqlite3.Connection) -> None:
        """Go on: begin anew if the file is damaged, else say once what is wrong."""
        with self._reading:
            if damaged(error) and db in (self._read, self._write):  # else the other thread has begun anew already
                self._open(self._inode, str(error))
            elif not damaged(error) and not self._warned and not self.closed:
                self._warned = True
                logger.warning("%s: %s; not all answers are kept, or found again", self.path, error)

    def _open(self, broken: int | None, why: str = "") -> None:
        """Connect; the file with inode ``broken`` is set aside first. What cannot be written is kept in memory."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_name(f"{self.path.name}.lock")
            with locked(lock, OPEN_WAIT, str(self.path)):  # of two that set aside, the second would take the new one
                if broken is not None and inode(self.path) == broken:
                    set_aside(self.path, why)
                self._write = open_sound(self.path, self.max_bytes)
                self._read = open_reader(self.path)
                self._inode = inode(self.path)
        except (OSError, Busy, sqlite3.Error) as error:
            logger.warning("%s cannot be used (%s): answers are kept in memory, for this process", self.path, error)
            self._write = self._read = open_memory(self.max_bytes)
            self._inode, self.memory = None, True
