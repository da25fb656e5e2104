"""Resumable collection: pictures in, records (references or questions) out, one finished shard after another.

    done = collect(samples, origins, write, work, shard_size=500, kind=REFERENCES)

The unit of work is a shard: ``shard_size`` pictures in the order in which ``data/images`` is read. A finished shard is
a folder ``work/00003`` with ``records.parquet`` and ``failures.json``, moved to its name in one step. Running again
with the same ``work`` does the missing shards only, so a killed stage repeats at most one shard and a finished one
nothing; the caller's ``work`` must belong to one set of parameters and inputs (``Stage.work`` does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from balcap.collect.rows import CollectError
from balcap.files import atomic_path, remove, write_json
from balcap.progress import Progress
from balcap.records import Question, Reference, Sample
from balcap.records_io import read_questions, read_references, write_questions, write_references, write_table

T = TypeVar("T")


class Unwritten(Exception):
    """A writer has no record for this picture; the message says why. The picture is counted as a failure."""


@dataclass(frozen=True)
class Kind(Generic[T]):
    """What is collected, and how a shard of it is stored."""

    name: str
    save: Callable[[Path, Iterable[T]], None]
    load: Callable[[Path], list[T]]


REFERENCES: Kind[Reference] = Kind("references", write_references, lambda path: list(read_references(path).values()))
QUESTIONS: Kind[Question] = Kind(
    "questions", write_questions, lambda path: [q for found in read_questions(path).values() for q in found]
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture without a record; ``origin`` is its name in the manifest."""

    image_id: str
    origin: str
    reason: str


FAILURES = pa.schema([("image_id", pa.string()), ("origin", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Collected(Generic[T]):
    """Everything collected so far: all records and all failures, each in the order of the pictures."""

    records: list[T]
    failures: list[Failure]
    pictures: int


def read_origins(manifest: Path) -> dict[str, str]:
    """``image_id`` -> ``origin`` of ``data/manifest.parquet``; raises :class:`CollectError` if it holds no picture."""
    table = pq.read_table(manifest, columns=["image_id", "origin"]).to_pydict()
    if not table["image_id"]:
        raise CollectError(
            f"{manifest}: holds no picture; see data/rejects.parquet for what `prepare` refused, and why"
        )
    return dict(zip(table["image_id"], table["origin"], strict=True))


def collect(
    samples: Iterable[Sample],
    origins: Mapping[str, str],
    write: Callable[[Sample], Sequence[T]],
    work: Path,
    shard_size: int,
    kind: Kind[T],
) -> Collected[T]:
    """Write the records of every sample, shard by shard; finished shards are read back, not written again.

    ``write`` returns the records of one picture or raises :class:`Unwritten`. Raises :class:`CollectError` when
    samples and manifest (``origins``) are not the same pictures.
    """
    work.mkdir(parents=True, exist_ok=True)
    for leftover in work.glob(".*.tmp-*"):  # of a process that was killed; the stage's lock says that it is gone
        remove(leftover)
    progress = Progress(f"collect_{kind.name}", len(origins), "pictures")
    progress.skip(sum(min(shard_size, len(origins) - int(shard.name) * shard_size) for shard in _finished(work)))
    records: list[T] = []
    failures: list[Failure] = []
    seen = 0
    for number, batch in enumerate(_batches(samples, shard_size)):
        shard = work / f"{number:05d}"
        if not shard.is_dir():
            _write_shard(shard, batch, origins, write, kind, progress)
        records += kind.load(shard / "records.parquet")
        failures += [Failure(**row) for row in json.loads((shard / "failures.json").read_text(encoding="utf-8"))]
        seen += len(batch)
    if seen != len(origins):
        raise _disagree(f"{seen} pictures against {len(origins)}")
    return Collected(records, failures, seen)


def _finished(work: Path) -> Iterator[Path]:
    return work.glob("[0-9]" * 5)


def _batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    rest = iter(samples)
    while batch := list(islice(rest, size)):
        yield batch


def _write_shard(
    shard: Path,
    batch: list[Sample],
    origins: Mapping[str, str],
    write: Callable[[Sample], Sequence[T]],
    kind: Kind[T],
    progress: Progress,
) -> None:
    records: list[T] = []
    failures: list[dict[str, str]] = []
    for sample in batch:
        if sample.image_id not in origins:
            raise _disagree(f"{sample.image_id} is in the images only")
        try:
            records += write(sample)
        except Unwritten as why:
            failures.append({"image_id": sample.image_id, "origin": origins[sample.image_id], "reason": str(why)})
        progress.advance(note=f"{len(failures)} failed in this shard" if failures else "")
    with atomic_path(shard) as tmp:
        tmp.mkdir()
        kind.save(tmp / "records.parquet", records)
        write_json(tmp / "failures.json", failures)


def _disagree(what: str) -> CollectError:
    return CollectError(
        f"data/images and data/manifest.parquet do not hold the same pictures ({what}); "
        "make them again: dvc repro -f prepare"
    )


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """The failures table, sorted by origin."""
    rows = [
        {"image_id": f.image_id, "origin": f.origin, "reason": f.reason}
        for f in sorted(failures, key=lambda f: (f.origin, f.image_id))
    ]
    write_table(path, rows, FAILURES)


def check_failures(done: Collected[T], max_share: float, key: str, table: Path) -> None:
    """Raise :class:`CollectError` with names and reasons when more than ``max_share`` of the pictures failed."""
    if not done.failures or len(done.failures) <= max_share * done.pictures:
        return
    share = len(done.failures) / done.pictures
    shown = [f"  {f.origin}: {f.reason}" for f in sorted(done.failures, key=lambda f: f.origin)[:5]]
    more = len(done.failures) - len(shown)
    lines = [
        f"{len(done.failures)} of {done.pictures} pictures ({share:.1%}) got nothing; {key} allows {max_share:.1%}:",
        *shown,
        *([f"  and {more} more"] if more else []),
        f"All are in {table}. Mend what it names, or raise {key}.",
    ]
    raise CollectError("\n".join(lines))
