"""Stage `collect_references`: a writer captions each picture; captions are split into units.

    dvc repro --single-item collect_references        or        python -m steps.collect_references

Kill it at any time: run again, it goes on behind the last finished shard, and asks no model what it has answered.
"""

from __future__ import annotations

from functools import partial

from balcap.collect import REFERENCES, reference_writer
from balcap.records_io import write_references
from steps._collecting import collect_all
from steps._stage import main, stage


def body() -> None:
    """Write every reference, in resumable shards; fail above ``max_failure_share``."""
    with stage("collect_references") as s:
        params = s.params.collect_references
        write = partial(reference_writer, params, s.params.runtime)
        done = collect_all(s, REFERENCES, write, params.shard_size, params.max_failure_share)
        with s.output("data/references.parquet") as tmp:
            write_references(tmp, done.records)
        print(f"{len(done.records)} references for {done.pictures} pictures", flush=True)


if __name__ == "__main__":
    main(body)
