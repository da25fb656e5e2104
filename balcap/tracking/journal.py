"""What a run wants recorded, as JSON lines on disk: written by the stage, sent to MLflow by another process.

    .work/tracking/20261121-120000-train-9f86d081.jsonl     one record per line
                                                 .json      the sender's state: how far it came, under which run
                                                 /0001.parquet  tables and artifacts, copied: they outlive the run

Stage and sender share one open file and with it one lock on the journal: a journal whose lock is free has neither, and
whoever finds it may send the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balcap import workspace
from balcap.files import remove, write_json

KEEP_DAYS = 30
"""Journals that nobody could send for this long are dropped."""


def folder() -> Path:
    """Where journals lie."""
    return workspace.work_root() / "tracking"


@dataclass
class Journal:
    """One open, locked journal; ``fd`` is in append mode."""

    path: Path
    fd: int

    @classmethod
    def create(cls, name: str) -> Journal:
        """A new journal, locked by this process."""
        path = folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{secrets.token_hex(4)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Locked before anybody can see it under its name.
        hidden = path.with_suffix(".tmp")
        fd = os.open(hidden, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(hidden, path)
        return cls(path, fd)

    @classmethod
    def take(cls, path: Path) -> Journal | None:
        """An orphaned journal, now locked by this process; ``None`` if it is in use or gone."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if not path.exists():  # sent and removed between open and lock
            os.close(fd)
            return None
        return cls(path, fd)

    @classmethod
    def append(cls, path: Path) -> Journal:
        """The journal of another process, which holds the lock, to write to."""
        return cls(path, os.open(path, os.O_WRONLY | os.O_APPEND))

    @property
    def files(self) -> Path:
        """Folder of the tables and artifacts that records name."""
        return self.path.with_suffix("")

    def write(self, record: dict[str, Any]) -> None:
        """Append a record with the time now (milliseconds); NaN is kept as NaN."""
        line = json.dumps({"time": time.time_ns() // 1_000_000, **record}, ensure_ascii=False) + "\n"
        os.write(self.fd, line.encode())

    def read(self, offset: int) -> list[tuple[dict[str, Any], int]]:
        """Complete records from byte ``offset`` on, each with the offset behind it."""
        rows, position = [], offset
        for line in _from(self.path, offset).splitlines(keepends=True):
            if not line.endswith(b"\n"):  # still being written, or cut off by a full disk
                break
            position += len(line)
            try:
                rows.append((json.loads(line), position))
            except ValueError:  # a cut-off line that a later one was appended to
                continue
        return rows

    def ended(self) -> bool:
        """Whether the last record is the end of the run."""
        size = self.path.stat().st_size
        lines = _from(self.path, max(size - 200, 0)).splitlines()
        return bool(lines) and b'"op": "end"' in lines[-1]

    def state(self) -> dict[str, Any]:
        """What the sender has written down; empty before it reached the store."""
        try:
            value = json.loads(self.path.with_suffix(".json").read_bytes())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace the sender's state."""
        write_json(self.path.with_suffix(".json"), state)

    def delete(self) -> None:
        """Everything is sent: remove the journal and what belongs to it."""
        for path in (self.files, self.path.with_suffix(".json"), self.path.with_suffix(".log"), self.path):
            remove(path)

    def close(self) -> None:
        """Give up this process's hold on the journal."""
        os.close(self.fd)


def orphans() -> list[Path]:
    """Journals that were not sent, oldest first; those older than ``KEEP_DAYS`` are dropped."""
    found = []
    for path in sorted(folder().glob("*.jsonl")):
        journal = Journal.take(path)
        if journal is None:
            continue
        if time.time() - path.stat().st_mtime > KEEP_DAYS * 86400:
            journal.delete()
        else:
            found.append(path)
        journal.close()
    return found


def _from(path: Path, offset: int) -> bytes:
    with path.open("rb") as f:
        f.seek(offset)
        return f.read()
