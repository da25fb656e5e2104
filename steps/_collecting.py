"""What both collections do: run a writer over all pictures in resumable shards, and keep the tables of what failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from balcap import collect
from balcap.collect.engine import Kind
from balcap.records_io import read_samples
from steps._stage import Stage, StageError

T = TypeVar("T")


def collect_all(
    s: Stage,
    kind: Kind[T],
    make_writer: Callable[[Mapping[str, str]], collect.Writer],
    shard_size: int,
    max_failure_share: float = 1.0,
) -> collect.Collected[T]:
    """Every picture's records; raises :class:`StageError` above ``max_failure_share`` or for an unusable file.

    Killed at any time, the next run of the same key goes on behind the last finished shard.
    """
    table = s.work / "failures.parquet"
    try:
        origins = collect.read_origins(Path("data/manifest.parquet"))
        write = make_writer(origins)
        lost = collect.report_problems(write, s.work)
        done = collect.collect(read_samples("data/images"), origins, write, s.work / "shards", shard_size, kind)
        collect.write_failures(table, done.failures)
        collect.check_failures(done, max_failure_share, f"{s.name}.max_failure_share", table)
    except collect.CollectError as error:
        raise StageError(str(error)) from None
    finally:
        for path in sorted(s.work.glob("*.parquet")):
            s.run.artifact(path, "collect")
    s.run.log({kind.name: len(done.records), "failed": len(done.failures), "lines_not_used": lost})
    return done
