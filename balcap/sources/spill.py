"""What `prepare` has read so far, on disk: pictures come in the order of the source, and go out in that of `image_id`.

The encoded bytes are appended to one file, the facts stand in an SQLite table beside it; memory does not grow with the
number of pictures. The folder is deleted on closing: it is a sorting place, not a result.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from balcap.files import remove
from balcap.images import Picture, Rejected
from balcap.sources.base import RawImage

TABLES = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4000; PRAGMA temp_store = FILE;
    CREATE TABLE pictures (
        image_id TEXT PRIMARY KEY, width INT, height INT, stored_width INT, stored_height INT, phash TEXT,
        start INT, bytes INT, split TEXT, origin TEXT, source TEXT, author TEXT, license TEXT, meta TEXT
    );
    CREATE TABLE rejects (origin TEXT, reason TEXT, detail TEXT);
    BEGIN;
"""


class Spill:
    """Pictures and rejects; the first picture with given pixels wins."""

    def __init__(self, folder: Path) -> None:
        self.images = (folder / "images.bin").open("w+b")
        self.end = 0
        self.facts = sqlite3.connect(folder / "facts.sqlite", isolation_level=None)
        self.facts.row_factory = sqlite3.Row
        self.facts.executescript(TABLES)

    def add(self, raw: RawImage, picture: Picture, split: str) -> None:
        """Keep a picture, or reject it as the duplicate of an earlier one."""
        meta = json.dumps(dict(raw.meta), sort_keys=True, ensure_ascii=False)
        place = (self.end, len(picture.image), split, raw.origin, raw.source, raw.author, raw.license, meta)
        sizes = (picture.width, picture.height, picture.stored_width, picture.stored_height, picture.phash)
        row = (picture.image_id, *sizes, *place)
        new = self.facts.execute(f"INSERT OR IGNORE INTO pictures VALUES ({', '.join('?' * len(row))})", row)
        if new.rowcount:
            self.images.write(picture.image)
            self.end += len(picture.image)
            return
        first = self.facts.execute("SELECT origin FROM pictures WHERE image_id = ?", (picture.image_id,)).fetchone()
        self.reject(raw.origin, Rejected("duplicate", f"same pixels as {first['origin']}"))

    def reject(self, origin: str, why: Rejected) -> None:
        """Keep why a picture was refused."""
        self.facts.execute("INSERT INTO rejects VALUES (?, ?, ?)", (origin, why.reason, why.detail))

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Pictures per split, refused ones per reason."""
        ask = "SELECT {0}, count(*) FROM {1} GROUP BY {0} ORDER BY {0}"
        by_split = dict(map(tuple, self.facts.execute(ask.format("split", "pictures"))))
        by_reason = dict(map(tuple, self.facts.execute(ask.format("reason", "rejects"))))
        return by_split, by_reason

    def pictures(self, split: str | None = None) -> Iterator[dict[str, Any]]:
        """Facts by column name, in order of ``image_id``; of one split or of all."""
        where, values = ("WHERE split = ?", [split]) if split else ("", [])
        for row in self.facts.execute(f"SELECT * FROM pictures {where} ORDER BY image_id", values):
            yield dict(row)

    def image(self, facts: dict[str, Any]) -> bytes:
        """The encoded bytes of a picture."""
        self.images.seek(facts["start"])
        return self.images.read(facts["bytes"])

    def rejects(self) -> Iterator[dict[str, str]]:
        """Origin, reason and detail, in order of origin."""
        for row in self.facts.execute("SELECT * FROM rejects ORDER BY origin, reason, detail"):
            yield dict(row)


@contextmanager
def open_spill(folder: Path) -> Iterator[Spill]:
    """An empty spill in ``folder``, deleted when the block ends, and before it begins if a killed run left one."""
    remove(folder)
    folder.mkdir(parents=True)
    spill = Spill(folder)
    try:
        yield spill
    finally:
        spill.facts.close()
        remove(folder)
        with suppress(OSError):  # a full disk: the buffer's rest belongs to a deleted file
            spill.images.close()
