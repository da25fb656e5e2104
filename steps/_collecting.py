"""What both collections do: run a writer over all pictures in resumable shards, and keep the tables of what failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from balcap import collect
from balcap.collect.engine import Kind
from balcap.llm.base import Mismatch
from balcap.records import Question, Reference
from balcap.records_io import read_samples
from steps._stage import Stage, StageError

T = TypeVar("T", Reference, Question)


def collect_all(
    s: Stage,
    kind: Kind[T],
    make_writer: Callable[[Mapping[str, str]], collect.Writing],
    shard_size: int,
    max_failure_share: float = 1.0,
) -> collect.Collected[T]:
    """Every picture's records; raises :class:`StageError` above ``max_failure_share`` or for an unusable file.

    Killed at any time, the next run of the same key goes on behind the last finished shard. A writer whose failures
    pass (an endpoint that is away) stops as soon as they are too many, and the next run asks for what failed again.
    """
    table, key = s.work / "failures.parquet", f"{s.name}.max_failure_share"
    costs: Callable[[], dict[str, float]] = dict
    try:
        origins = collect.read_origins(Path("data/manifest.parquet"))

        def check(failures: Sequence[collect.Failure]) -> None:
            collect.check_failures(failures, len(origins), max_failure_share, key, table)

        writing = make_writer(origins)
        costs = writing.account
        lost = collect.report_problems(writing.file, s.work / "problems.parquet") if writing.file else 0
        samples, failed = read_samples("data/images"), check if writing.fails_for_now else None
        done = collect.collect(samples, origins, writing.write, s.work / "shards", shard_size, kind, failed)
        collect.write_failures(table, done.failures)
        check(done.failures)
    except (collect.CollectError, Mismatch) as error:
        raise StageError(str(error)) from None
    finally:
        if spent := costs():
            s.run.log(spent)
        for path in sorted(s.work.glob("*.parquet")):
            s.run.artifact(path, "collect")
    s.run.log({kind.name: len(done.records), "failed": len(done.failures), "lines_not_used": lost})
    return done
