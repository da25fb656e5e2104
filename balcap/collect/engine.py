"""Resumable collection: pictures in, records (references or questions) out, one finished shard after another.

    done = collect(samples, origins, each(write), work, shard_size=500, kind=REFERENCES)

A writer takes all samples and gives what it wrote of each, in order; how many it works on at once is its own matter.
The unit of work is a shard: ``shard_size`` pictures in the order in which ``data/images`` is read. A finished shard is
a folder ``work/00003`` with ``records.parquet`` and ``failures.json``, moved to its name in one step. Running again
with the same ``work`` does the missing shards only, so a killed stage repeats at most one shard and a finished one
nothing. The caller's ``work`` must belong to one set of parameters and inputs (``Stage.work`` does).
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from balcap.collect.rows import CollectError
from balcap.files import atomic_path, remove, write_json
from balcap.progress import Progress
from balcap.records import Question, Reference, Sample
from balcap.records_io import read_questions, read_references, write_questions, write_references, write_table

T = TypeVar("T", Reference, Question)


class Unwritten(Exception):
    """A writer has no record for this picture; the message says why. The picture is counted as a failure."""


Writer = Callable[[Iterable[Sample]], Generator[Sequence[T] | Unwritten, None, None]]
"""Gives, for each sample and in their order, its records or why it has none."""


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


def each(write: Callable[[Sample], Sequence[T]]) -> Writer[T]:
    """A writer that takes one sample after the other."""

    def run(samples: Iterable[Sample]) -> Generator[Sequence[T] | Unwritten, None, None]:
        for sample in samples:
            try:
                yield write(sample)
            except Unwritten as why:
                yield why

    return run


def collect(
    samples: Iterable[Sample],
    origins: Mapping[str, str],
    write: Writer[T],
    work: Path,
    shard_size: int,
    kind: Kind[T],
    failed: Callable[[Sequence[Failure]], None] | None = None,
) -> Collected[T]:
    """Write the records of every sample, shard by shard; finished shards are read back, not written again.

    ``write`` gives the records of each picture or an :class:`Unwritten`. ``failed`` is for writers whose failures pass:
    it sees those of this call as they come, and may raise; and pictures that got nothing earlier are asked for again.
    Raises :class:`CollectError` when samples and manifest (``origins``) are not the same pictures.
    """
    work.mkdir(parents=True, exist_ok=True)
    for leftover in work.glob(".*.tmp-*"):  # of a process that was killed; the stage's lock says that it is gone
        remove(leftover)
    shards = _Shards(work, shard_size, kind, origins, again=failed is not None)
    progress = Progress(f"collect_{kind.name}", len(origins), "pictures")
    progress.skip(shards.known())
    with closing(write(shards.missing(samples))) as results:
        for result in results:
            shards.put(result)
            progress.advance(note=f"{len(shards.failures)} failed" if shards.failures else "")
            if failed:
                failed(shards.failures)
    if shards.seen != len(origins):
        raise _disagree(f"{shards.seen} pictures against {len(origins)}")
    return shards.collected()


@dataclass
class _Shard(Generic[T]):
    """Pictures in order, and what each has got."""

    path: Path
    got: dict[str, Sequence[T] | Failure] = field(default_factory=dict)
    wanted: set[str] | None = None
    """Pictures of a finished shard that are asked for again; ``None`` while it is not finished: all are asked for."""
    pictures: list[str] = field(default_factory=list)
    waiting: int = 0
    """Pictures that the writer has not answered."""
    changed: bool = False


class _Shards(Generic[T]):
    """All shards of a collection: which samples they lack, what they get, and their files."""

    def __init__(self, work: Path, size: int, kind: Kind[T], origins: Mapping[str, str], again: bool) -> None:
        self.work, self.size, self.origins = work, size, origins
        self.kind: Kind[T] = kind
        self.failures: list[Failure] = []
        """Of this call."""
        self.seen = 0
        self._ended = False
        self._shards: dict[int, _Shard[T]] = {
            int(path.name): self._load(path, again) for path in sorted(work.glob("[0-9]" * 5))
        }
        self._asked: deque[tuple[_Shard[T], str]] = deque()

    def known(self) -> int:
        """Pictures of finished shards that are not asked for again."""
        full = sum(min(self.size, len(self.origins) - number * self.size) for number in self._shards)
        return full - sum(len(shard.wanted or ()) for shard in self._shards.values())

    def missing(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples that are to be written."""
        for sample in samples:
            if sample.image_id not in self.origins:
                raise _disagree(f"{sample.image_id} is in the images only")
            shard = self._next()
            shard.pictures.append(sample.image_id)
            if shard.wanted is None or sample.image_id in shard.wanted:
                shard.waiting += 1
                self._asked.append((shard, sample.image_id))
                yield sample
            self._settle(shard)
        self._ended = True
        for shard in self._shards.values():
            self._settle(shard)

    def put(self, result: Sequence[T] | Unwritten) -> None:
        """The result for the first sample that waits."""
        shard, image_id = self._asked.popleft()
        if isinstance(result, Unwritten):
            failure = Failure(image_id, self.origins[image_id], str(result))
            self.failures.append(failure)
            shard.got[image_id] = failure
        else:
            shard.got[image_id] = result
        shard.waiting, shard.changed = shard.waiting - 1, True
        self._settle(shard)

    def collected(self) -> Collected[T]:
        """Everything, in the order of the pictures."""
        got = [part for _, shard in sorted(self._shards.items()) for part in _in_order(shard)]
        failures = [part for part in got if isinstance(part, Failure)]
        return Collected([r for part in got if not isinstance(part, Failure) for r in part], failures, self.seen)

    def _next(self) -> _Shard[T]:
        """The shard of the next sample."""
        number, self.seen = self.seen // self.size, self.seen + 1
        return self._shards.setdefault(number, _Shard(self.work / f"{number:05d}"))

    def _settle(self, shard: _Shard[T]) -> None:
        """Write a shard if all its pictures are there and answered, and any of them is new."""
        if shard.waiting or not shard.changed or (len(shard.pictures) < self.size and not self._ended):
            return
        parts = _in_order(shard)
        with atomic_path(shard.path) as tmp:
            tmp.mkdir()
            self.kind.save(
                tmp / "records.parquet", [r for part in parts if not isinstance(part, Failure) for r in part]
            )
            write_json(tmp / "failures.json", [asdict(part) for part in parts if isinstance(part, Failure)])
        shard.changed = False

    def _load(self, path: Path, again: bool) -> _Shard[T]:
        """A finished shard; ``again`` leaves out what failed."""
        failures = [Failure(**row) for row in json.loads((path / "failures.json").read_text(encoding="utf-8"))]
        written: dict[str, list[T]] = defaultdict(list)
        for record in self.kind.load(path / "records.parquet"):
            written[record.image_id].append(record)
        got: dict[str, Sequence[T] | Failure] = dict(written.items())
        if again:
            return _Shard(path, got, {failure.image_id for failure in failures})
        return _Shard(path, got | {failure.image_id: failure for failure in failures}, set())


def _in_order(shard: _Shard[T]) -> list[Sequence[T] | Failure]:
    return [shard.got.get(image_id, ()) for image_id in shard.pictures]


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


def check_failures(failures: Sequence[Failure], pictures: int, max_share: float, key: str, table: Path) -> None:
    """Raise :class:`CollectError` with names and reasons when more than ``max_share`` of all pictures failed.

    All failures are then written to ``table``.
    """
    if len(failures) <= max_share * pictures:
        return
    write_failures(table, failures)
    shown = [f"  {f.origin}: {f.reason}" for f in sorted(failures, key=lambda f: f.origin)[:5]]
    more = len(failures) - len(shown)
    share = len(failures) / pictures
    lines = [
        f"{len(failures)} of {pictures} pictures ({share:.1%}) got nothing; {key} allows {max_share:.1%}:",
        *shown,
        *([f"  and {more} more"] if more else []),
        f"All are in {table}. Mend what it names, or raise {key}; what is written already is not written again.",
    ]
    raise CollectError("\n".join(lines))
