"""The database under the cache of answers: layout, opening, setting aside, statements. No threads, no waiting.

    db = open_sound(path, max_bytes)                 # a damaged file is set aside as NAME.corrupt-N and begun anew
    with transaction(db):
        store(db, key, token, ("precision", image_id), answer)
    evict(db, target)                                # least recently used first

Write-ahead logging without a sync per commit: a killed process loses nothing committed, a power failure at most the
last answers. Local disks only, because processes share the log's index in memory. Nobody else's database is touched.
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from balcap.llm import claims

logger = logging.getLogger(__name__)
MARK, LAYOUT = 0x42414C43, 1
"""``application_id`` ("BALC") and ``user_version``: what makes a database a cache of answers."""
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers"
    " (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT, image_id TEXT, used REAL, answer BLOB)",
    "CREATE INDEX IF NOT EXISTS answers_used ON answers (used)",
    claims.SCHEMA,
    f"PRAGMA application_id = {MARK}",
    f"PRAGMA user_version = {LAYOUT}",
)
PAGE = 4096
READ_WAIT, WRITE_WAIT = 2.0, 30.0
"""Seconds of patience with other processes; only reading waits in the thread of the caller."""
AT_ONCE = 1000
"""Answers (or pages) that one transaction deletes, so that other processes get their turn."""


class ForeignFile(ValueError):
    """The file is a database of something else, or of another version of the cache."""


def connect(path: Path | str, wait: float) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time; nothing is read or written yet."""
    return sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection for lookups."""
    db = connect(path, READ_WAIT)
    db.execute("PRAGMA cache_size = -64000")  # kB
    return db


def open_sound(path: Path, max_bytes: int) -> sqlite3.Connection:
    """A connection for writing; a damaged file is set aside first. Raises ``sqlite3.Error`` if it cannot be written."""
    try:
        return prepare(connect(path, WRITE_WAIT), path, max_bytes)
    except sqlite3.Error as error:
        if not damaged(error):
            raise
        set_aside(path, str(error))
        return prepare(connect(path, WRITE_WAIT), path, max_bytes)


def open_memory(max_bytes: int) -> sqlite3.Connection:
    """A cache that lasts as long as its connection."""
    return prepare(connect(":memory:", WRITE_WAIT), Path(":memory:"), max_bytes)


def prepare(db: sqlite3.Connection, path: Path, max_bytes: int) -> sqlite3.Connection:
    """Make the tables and drop what dead processes left; raises :class:`ForeignFile` before anything is written."""
    if pragma(db, "schema_version") and (pragma(db, "application_id"), pragma(db, "user_version")) != (MARK, LAYOUT):
        db.close()
        raise ForeignFile(f"{path} is a database, but no cache of answers of this version: name another file")
    log = max(16, min(1000, max_bytes // 40 // PAGE))  # pages
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first page is written
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA wal_autocheckpoint = {log}")
    db.execute(f"PRAGMA journal_size_limit = {log * PAGE}")
    with transaction(db):
        for statement in SCHEMA:
            db.execute(statement)
        claims.sweep(db)
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.rollback()


def pragma(db: sqlite3.Connection, name: str) -> int:
    """One number that the database knows of itself."""
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def find(db: sqlite3.Connection, keys: Sequence[str]) -> list[tuple[str, bytes, float]]:
    """Key, answer and time of use of what is stored; one query (per 10,000 keys)."""
    rows: list[tuple[str, bytes, float]] = []
    for i in range(0, len(keys), claims.MANY):
        part = keys[i : i + claims.MANY]
        query = f"SELECT key, answer, used FROM answers WHERE key IN ({','.join('?' * len(part))})"
        rows += db.execute(query, part).fetchall()
    return rows


def store(db: sqlite3.Connection, key: str, token: str, note: tuple[str, str], answer: str) -> int:
    """Keep an answer and give its claim back; 1, or 0 if there is one already."""
    row = (key, *map(plain, note), time.time(), answer.encode("utf-8", "surrogatepass"))
    kept = db.execute("INSERT OR IGNORE INTO answers (key, kind, image_id, used, answer) VALUES (?, ?, ?, ?, ?)", row)
    claims.release(db, key, token)
    return kept.rowcount


def decode(answer: bytes) -> str:
    """The text as it came: a model may send half a surrogate pair, which plain UTF-8 cannot hold."""
    return answer.decode("utf-8", "surrogatepass")


def plain(text: str) -> str:
    """Text that any format can hold."""
    return text.encode("utf-8", "replace").decode()


def filled(db: sqlite3.Connection) -> int:
    """Bytes of the pages in use."""
    return (pragma(db, "page_count") - pragma(db, "freelist_count")) * pragma(db, "page_size")


def evict(db: sqlite3.Connection, target: int) -> int:
    """Delete until the pages in use are at most ``target`` bytes; returns the number of answers."""
    (left,) = db.execute("SELECT count(*) FROM answers").fetchone()
    removed = 0
    while left > removed and (size := filled(db)) > target:
        some = min(AT_ONCE, math.ceil((size - target) / size * (left - removed)))
        oldest = f"SELECT id FROM answers ORDER BY used, id LIMIT {some}"
        gone = db.execute(f"DELETE FROM answers WHERE id IN ({oldest})").rowcount
        if not gone:
            break  # another process was faster
        removed += gone
    return removed


def shrink(db: sqlite3.Connection, max_bytes: int) -> int:
    """:func:`evict`, and give the room back to the disk."""
    removed = evict(db, max_bytes)
    while pragma(db, "freelist_count"):
        db.execute(f"PRAGMA incremental_vacuum({AT_ONCE})").fetchall()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return removed


def damaged(error: Exception) -> bool:
    """Whether the file itself is at fault."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def inode(path: Path) -> int | None:
    """Which file stands under the name at present."""
    return path.stat().st_ino if path.exists() else None


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file, with its log, to ``NAME.corrupt-N``; says so in a warning."""
    aside = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.corrupt-{n}")).exists())
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(f"{path}{suffix}"):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    logger.warning("%s is damaged (%s): set aside as %s, and begun anew", path, why, aside.name)
