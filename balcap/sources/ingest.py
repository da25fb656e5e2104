"""From a source to stored pictures: read by several processes, identified, split by hash, sorted into shards.

    prepare(params, workers=2, work=Path(".work/x"), images=…, manifest=…, rejects=…) -> Prepared

    split = eval  if  first 8 bytes of sha256("seed:image_id") / 2^64 < eval_share  else  train

The result does not depend on the number of processes: pictures are taken in the order of the source, of equal ones the
first. Memory does not grow with the number of pictures (``balcap.sources.spill``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path

from balcap.images import Picture, Rejected, read_picture
from balcap.params.prepare import Prepare
from balcap.progress import Progress
from balcap.sources import SOURCES
from balcap.sources.base import RawImage, SourceError
from balcap.sources.shards import write_manifest, write_rejects, write_shards
from balcap.sources.spill import Spill, open_spill

CHUNK = 32
"""Pictures that a process takes at a time."""
WORTHWHILE = 64
"""Pictures for which another process is started; fewer are read sooner than it has started."""
DEADLINE = 1800.0
"""Seconds within which a chunk must be read; a network folder that hangs ends the stage."""


@dataclass(frozen=True)
class Prepared:
    """How many pictures each split holds, and how many were refused for each reason."""

    splits: dict[str, int]
    reasons: dict[str, int]


def prepare(params: Prepare, workers: int, work: Path, images: Path, manifest: Path, rejects: Path) -> Prepared:
    """Write the folder ``images`` and the files ``manifest`` and ``rejects``; all three must not exist yet.

    The rejects table is also left as ``work/rejects.parquet``, for the case that the stage fails. Raises
    :class:`SourceError` if the source is at fault, if more than ``limits.max_reject_share`` was refused, or if
    the disk is full.
    """
    try:
        with open_spill(work / "spill") as spill:
            _read_into(spill, params, workers)
            write_rejects(work / "rejects.parquet", spill)
            done = Prepared(*spill.counts())
            _check(done, spill, params, work / "rejects.parquet")
            write_shards(images, spill, params.shard_size)
            write_manifest(manifest, spill, params.shard_size)
            write_rejects(rejects, spill)
            return done
    except (OSError, sqlite3.OperationalError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not (full or getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL):
            raise
        raise SourceError(
            f"no space left for the pictures of {params.path} (written below {images.parent} and {work}); free some, "
            "or lower prepare.images.size. What was there before is unchanged"
        ) from None


def split_of(image_id: str, seed: int, eval_share: float) -> str:
    """``eval`` or ``train``, by hash: adding pictures moves none from one split to the other."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}:{image_id}".encode()).digest()[:8]) / 2**64
    return "eval" if draw < eval_share else "train"


def _read_into(spill: Spill, params: Prepare, workers: int) -> None:
    source = SOURCES[params.source.name]
    progress = Progress("prepare", sum(1 for _ in source(params)), "pictures")
    workers = min(workers, progress.total // WORTHWHILE + 1)
    refused = 0
    for raw, found in _read_all(source(params), params, workers):
        if isinstance(found, Rejected):
            spill.reject(raw.origin, found)
            refused += 1
        else:
            spill.add(raw, found, split_of(found.image_id, params.split.seed, params.split.eval_share))
        progress.advance(note=f"{refused} refused" if refused else "")


def _check(done: Prepared, spill: Spill, params: Prepare, table: Path) -> None:
    """Raise :class:`SourceError` where too much was refused, or nothing found. A duplicate is no fault."""
    kept = sum(done.splits.values())
    refused = sum(n for reason, n in done.reasons.items() if reason != "duplicate")
    limit = params.limits.max_reject_share
    if not kept and not refused:
        raise SourceError(f"prepare.path: there is no picture in {params.path}")
    if kept and refused <= limit * (refused + kept):
        return
    faults = (row for row in spill.rejects() if row["reason"] != "duplicate")
    shown = [f"  {row['origin']}: {row['reason']}; {row['detail']}".rstrip("; ") for row in islice(faults, 5)]
    more = [f"  and {refused - len(shown)} more"] if refused > len(shown) else []
    lines = [
        f"{refused} of {refused + kept} pictures of {params.path} ({refused / (refused + kept):.1%}) were refused; "
        f"prepare.limits.max_reject_share allows {limit:.1%}, and one picture must be left:",
        *shown,
        *more,
        f"All are in {table}. Mend or remove them, or raise the limit that they exceed.",
    ]
    raise SourceError("\n".join(lines))


Found = Picture | Rejected


def _read_all(raws: Iterable[RawImage], params: Prepare, workers: int) -> Iterator[tuple[RawImage, Found]]:
    """Every picture with what became of it, in the order given; at most a few chunks are under way."""
    raws = iter(raws)
    chunks = iter(lambda: list(islice(raws, CHUNK)), [])
    read = partial(_read_chunk, params=params)
    if workers == 1:
        for chunk in chunks:
            yield from zip(chunk, read(chunk), strict=True)
        return
    # spawn: a fork of a process with threads (tracking) can deadlock
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        waiting: deque[tuple[list[RawImage], Future[list[Found]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(read, chunk)))
            if len(waiting) > 2 * workers:
                yield from _finished(*waiting.popleft())
        while waiting:
            yield from _finished(*waiting.popleft())


def _finished(chunk: list[RawImage], future: Future[list[Found]]) -> Iterator[tuple[RawImage, Found]]:
    names = f"{chunk[0].origin} … {chunk[-1].origin}"
    try:
        yield from zip(chunk, future.result(timeout=DEADLINE), strict=True)
    except BrokenProcessPool:
        raise SourceError(
            f"a process that read {names} was killed, most likely for want of memory; "
            "lower runtime.workers or prepare.limits.max_pixels"
        ) from None
    except TimeoutError:
        for worker in active_children():  # a pool waits for its workers, also for one that hangs
            worker.kill()
        raise SourceError(f"reading {names} took longer than {DEADLINE:.0f} s; does the folder answer?") from None


def _read_chunk(chunk: list[RawImage], params: Prepare) -> list[Found]:
    return [_read(raw, params) for raw in chunk]


def _read(raw: RawImage, params: Prepare) -> Found:
    try:
        return read_picture(raw.load(), params.images, params.limits)
    except Rejected as why:
        return why
    except OSError as error:
        return Rejected("unreadable", error.strerror or type(error).__name__)


def _end_with_parent() -> None:
    """Let this worker die when the stage is killed, instead of waiting for work for ever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
