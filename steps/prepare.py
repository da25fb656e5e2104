"""Stage `prepare`: reads pictures from a source, decodes, orients, resizes once, identifies and splits them.

dvc repro --single-item prepare        or        python -m steps.prepare
"""

from __future__ import annotations

from balcap.sources import SourceError
from balcap.sources.ingest import prepare
from steps._stage import StageError, main, stage


def body() -> None:
    """Write shards, manifest and rejects; fail above ``limits.max_reject_share``."""
    with stage("prepare") as s:
        try:
            with (
                s.output("data/images") as images,
                s.output("data/manifest.parquet") as manifest,
                s.output("data/rejects.parquet") as rejects,
            ):
                done = prepare(s.params.prepare, s.params.runtime.workers, s.work, images, manifest, rejects)
        except SourceError as error:
            raise StageError(str(error)) from None
        finally:
            table = s.work / "rejects.parquet"
            if table.exists():
                s.run.artifact(table, "prepare")
        s.run.log({f"pictures/{name}": n for name, n in done.splits.items()})
        s.run.log({f"refused/{name}": n for name, n in done.reasons.items()})
        print(f"{_list(done.splits)}; refused: {_list(done.reasons) or 'none'}", flush=True)


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


if __name__ == "__main__":
    main(body)
