"""Stage `collect_questions`: multiple-choice questions per picture.

    dvc repro --single-item collect_questions        or        python -m steps.collect_questions

Kill it at any time: run again, it goes on behind the last finished shard, and asks no model what it has answered.
"""

from __future__ import annotations

from functools import partial

from balcap.collect import QUESTIONS, question_writer
from balcap.collect.curate import Curated, curate
from balcap.judge.reader import ReaderFailed, make_reader, measure_all
from balcap.llm.base import Mismatch
from balcap.records import Question
from balcap.records_io import read_samples, write_questions
from steps._collecting import collect_all
from steps._stage import Stage, StageError, main, stage


def body() -> None:
    """Write every picture's questions, in resumable shards, and curate them; a picture without any is no fault here."""
    with stage("collect_questions") as s:
        params = s.params.collect_questions
        done = collect_all(s, QUESTIONS, partial(question_writer, params), params.shard_size)
        curated = curate(measured(s, done.records), params)
        report(s, curated)
        with s.output("data/questions.parquet") as tmp:
            write_questions(tmp, curated.kept)
        asked = len({question.image_id for question in curated.kept})
        print(f"{len(curated.kept)} questions for {asked} of {done.pictures} pictures", flush=True)


def measured(s: Stage, questions: list[Question]) -> list[Question]:
    """The questions with the accuracies that ``collect_questions.reader`` finds; without a reader as they are."""
    params = s.params.collect_questions.reader
    if params is None:
        return questions
    try:
        reader = make_reader(params, s.params.runtime)
        found = measure_all(reader, read_samples("data/images"), questions)
    except (Mismatch, ReaderFailed) as error:
        raise StageError(str(error)) from None
    s.run.log(reader.account())
    return found


def report(s: Stage, curated: Curated) -> None:
    """Say what curation did, if it is on; raises :class:`StageError` when it leaves nothing."""
    params = s.params.collect_questions
    if not params.curated:
        return
    s.run.log({"dropped": curated.dropped, "unknown_accuracy": curated.unknown, "kept": len(curated.kept)})
    tests = f"{params.min_accuracy_with_image} with the picture, {params.max_accuracy_without_image} without"
    print(f"curated ({tests}): {curated.dropped} dropped, {curated.unknown} kept untested", flush=True)
    if curated.dropped and not curated.kept:
        raise StageError(
            f"curation dropped all {curated.dropped} questions ({tests}); lower min_accuracy_with_image, raise "
            "max_accuracy_without_image, or set them to null"
        )


if __name__ == "__main__":
    main(body)
