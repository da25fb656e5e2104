"""Who is asking what: a claim is the right of one process to ask one key, and ends with that process.

    with db: won = claim(db, key, token, until)      # WON, TAKEN, or the stored answer

A claim names its owner by host, process id and the moment at which the process started, so that a process that was
killed, or a later one with the same id, holds nothing back. What cannot be looked up (another host or container on the
same file) ends at the wall-clock time ``until``. The functions run inside the transaction of their caller.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path

SCHEMA = """CREATE TABLE IF NOT EXISTS claims
(key TEXT PRIMARY KEY, host TEXT, pid INTEGER, started TEXT, token TEXT, until REAL) WITHOUT ROWID"""
CLAIMS = "SELECT key, until, host, pid, started FROM claims"
PROC = Path("/proc")
MANY = 10_000
"""Keys per query, below the number of values that SQLite takes."""


class Claim(Enum):
    """The outcome of claiming a key that has no answer yet."""

    WON = "ask it"
    TAKEN = "somebody who lives is asking it"


def claim(db: sqlite3.Connection, key: str, token: str, until: float) -> Claim | bytes:
    """The stored answer, or whether the key may be asked under ``token`` until ``until`` (seconds since the epoch)."""
    if answer := db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone():
        return bytes(answer[0])
    if not unclaimed(db, [key]):
        return Claim.TAKEN
    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)", (key, *owner(os.getpid()), token, until))
    return Claim.WON


def release(db: sqlite3.Connection, key: str, token: str) -> None:
    """Give a claim back; one that passed to somebody else stays theirs."""
    db.execute("DELETE FROM claims WHERE key = ? AND token = ?", (key, token))


def unclaimed(db: sqlite3.Connection, keys: Sequence[str]) -> list[str]:
    """Those of ``keys`` that nobody alive claims: answered, given back, or left behind by a dead process."""
    held: set[str] = set()
    for i in range(0, len(keys), MANY):
        part = keys[i : i + MANY]
        held |= _held(db.execute(f"{CLAIMS} WHERE key IN ({','.join('?' * len(part))})", part).fetchall())
    return [key for key in keys if key not in held]


def sweep(db: sqlite3.Connection) -> None:
    """Delete the claims of dead processes."""
    rows = db.execute(CLAIMS).fetchall()
    held = _held(rows)
    db.executemany("DELETE FROM claims WHERE key = ?", [(key,) for key, *_ in rows if key not in held])


def _held(rows: Iterable[tuple[str, float, str, int, str]]) -> set[str]:
    """Keys whose owner lives, or may live; each process is looked up once."""
    now, living = time.time(), cache(_lives)
    return {key for key, until, *owner in rows if now < until and living(*owner)}


def _lives(host: str, pid: int, start: str) -> bool:
    return host != here() or started(pid) == start


@cache
def owner(pid: int) -> tuple[str, int, str | None]:
    """How this process is named in a claim."""
    return here(), pid, started(pid)


@cache
def here() -> str:
    """The space in which process ids mean something: host, boot and, in a container, its own process ids."""
    boot = space = ""
    with suppress(OSError):  # not Linux
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink(PROC / "self/ns/pid")
    return f"{platform.node()} {boot} {space}".strip()


def started(pid: int) -> str | None:
    """When a process started, in the system's own count; ``None`` for one that is gone or a zombie."""
    if not (PROC / "self/stat").exists():
        return _started_elsewhere(pid)
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str | None:
    """The same where there is no /proc. On Linux psutil's answer moves with the clock, so it is not asked there."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None
