"""Stage `collect_questions`: multiple-choice questions per picture.

    dvc repro --single-item collect_questions        or        python -m steps.collect_questions

Kill it at any time: run again, it goes on behind the last finished shard.
"""

from __future__ import annotations

from functools import partial

from balcap.collect import QUESTIONS, question_writer
from balcap.records_io import write_questions
from steps._collecting import collect_all
from steps._stage import main, stage


def body() -> None:
    """Write the questions of every picture, in resumable shards; a picture without questions is no fault here."""
    with stage("collect_questions") as s:
        params = s.params.collect_questions
        done = collect_all(s, QUESTIONS, partial(question_writer, params), params.shard_size)
        with s.output("data/questions.parquet") as tmp:
            write_questions(tmp, done.records)
        asked = done.pictures - len(done.failures)
        print(f"{len(done.records)} questions for {asked} of {done.pictures} pictures", flush=True)


if __name__ == "__main__":
    main(body)
