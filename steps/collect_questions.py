"""Stage `collect_questions`: multiple-choice questions per picture.

    dvc repro --single-item collect_questions        or        python -m steps.collect_questions

Kill it at any time: run again, it goes on behind the last finished shard.
"""

from __future__ import annotations

from pathlib import Path

from balcap import collect
from balcap.records_io import read_samples, write_questions
from steps._stage import StageError, main, stage


def body() -> None:
    """Write the questions of every picture, in resumable shards; a picture without questions is no fault here."""
    with stage("collect_questions") as s:
        params = s.params.collect_questions
        try:
            origins = collect.read_origins(Path("data/manifest.parquet"))
            write = collect.question_writer(params, origins)
            lost = collect.report_problems(write, s.work)
            done = collect.collect(
                read_samples("data/images"), origins, write, s.work / "shards", params.shard_size, collect.QUESTIONS
            )
            collect.write_failures(s.work / "failures.parquet", done.failures)
        except collect.CollectError as error:
            raise StageError(str(error)) from None
        finally:
            for path in sorted(s.work.glob("*.parquet")):
                s.run.artifact(path, "collect")
        with s.output("data/questions.parquet") as tmp:
            write_questions(tmp, done.records)
        s.run.log({"questions": len(done.records), "failed": len(done.failures), "lines_not_used": lost})
        print(
            f"{len(done.records)} questions for {done.pictures - len(done.failures)} of {done.pictures} pictures",
            flush=True,
        )


if __name__ == "__main__":
    main(body)
