"""Stage `collect_references`: a writer captions each picture; captions are split into units.

    dvc repro --single-item collect_references        or        python -m steps.collect_references

Kill it at any time: run again, it goes on behind the last finished shard.
"""

from __future__ import annotations

from pathlib import Path

from balcap import collect
from balcap.records_io import read_samples, write_references
from steps._stage import StageError, main, stage


def body() -> None:
    """Write every reference, in resumable shards; fail above ``max_failure_share``."""
    with stage("collect_references") as s:
        params = s.params.collect_references
        table = s.work / "failures.parquet"
        try:
            origins = collect.read_origins(Path("data/manifest.parquet"))
            write = collect.reference_writer(params, origins)
            lost = collect.report_problems(write, s.work)
            done = collect.collect(
                read_samples("data/images"), origins, write, s.work / "shards", params.shard_size, collect.REFERENCES
            )
            collect.write_failures(table, done.failures)
            collect.check_failures(done, params.max_failure_share, "collect_references.max_failure_share", table)
        except collect.CollectError as error:
            raise StageError(str(error)) from None
        finally:
            for path in sorted(s.work.glob("*.parquet")):
                s.run.artifact(path, "collect")
        with s.output("data/references.parquet") as tmp:
            write_references(tmp, done.records)
        s.run.log({"references": len(done.records), "failed": len(done.failures), "lines_not_used": lost})
        print(f"{len(done.records)} references for {done.pictures} pictures", flush=True)


if __name__ == "__main__":
    main(body)
