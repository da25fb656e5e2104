"""Question curation: both tests at their borders, unknown accuracies, the limit behind the tests, both writers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.collect import question_writer
from balcap.collect.curate import curate, keep, untested
from balcap.params.collect import CollectQuestions
from balcap.records import Question, Sample
from balcap.scenes import draw_scene

WITH, WITHOUT = 0.75, 0.25
NAN = math.nan


def asked(seen: float, guessed: float, image: str = "a", name: str = "Which?") -> Question:
    return Question(image, name, ("x", "y"), 0, seen, guessed)


def params(**changes: Any) -> CollectQuestions:
    return CollectQuestions.model_validate(
        {
            "path": "balcap/scenes",
            "writer": {"name": "scenes", "seed": 12},
            "per_image": 3,
            "reader": None,
            "min_accuracy_with_image": WITH,
            "max_accuracy_without_image": WITHOUT,
            "shard_size": 5,
        }
        | changes
    )


@pytest.mark.parametrize(
    ("seen", "guessed", "kept", "unknown"),
    [
        (1.0, 0.0, True, False),
        (0.76, 0.24, True, False),
        (0.75, 0.0, False, False),  # above 0.75, not at it
        (1.0, 0.25, False, False),  # below 0.25, not at it
        (0.0, 1.0, False, False),
        (NAN, 0.0, True, True),
        (1.0, NAN, True, True),
        (NAN, NAN, True, True),
        (NAN, 0.5, False, True),  # what is known speaks against it
        (0.5, NAN, False, True),
    ],
)
def test_both_tests_at_their_borders(seen: float, guessed: float, kept: bool, unknown: bool) -> None:
    question = asked(seen, guessed)
    assert keep(question, WITH, WITHOUT) is kept and untested(question, WITH, WITHOUT) is unknown
    assert keep(question, None, None) and not untested(question, None, None)
    assert keep(question, WITH, None) is not (seen <= WITH) and keep(question, None, WITHOUT) is not (
        guessed >= WITHOUT
    )


shares = st.floats(0.0, 1.0) | st.just(NAN)
questions = st.lists(st.builds(asked, shares, shares, st.sampled_from("abc"), st.text(max_size=2)), max_size=20)


@given(questions, st.integers(1, 4), st.none() | st.floats(0.0, 0.99), st.none() | st.floats(0.01, 1.0))
def test_nothing_is_lost_or_counted_twice(
    given_: list[Question], limit: int, low: float | None, high: float | None
) -> None:
    settings = params(per_image=limit, min_accuracy_with_image=low, max_accuracy_without_image=high)
    done = curate(iter(given_), settings)
    passed = [q for q in given_ if keep(q, low, high)]
    assert done.dropped == len(given_) - len(passed)
    for image in "abc":
        mine = [q for q in passed if q.image_id == image]
        assert [q for q in done.kept if q.image_id == image] == mine[:limit]
    assert done.kept == [q for q in passed if any(q is k for k in done.kept)], "in order"
    assert done.unknown == sum(
        (low is not None and math.isnan(q.accuracy_with_image))
        or (high is not None and math.isnan(q.accuracy_without_image))
        for q in done.kept
    )
    if low is None and high is None:
        assert done.dropped == done.unknown == 0


def test_the_limit_counts_kept_questions_not_written_ones() -> None:
    done = curate(
        [asked(0.0, 0.0, name=str(n)) for n in range(3)] + [asked(1.0, 0.0, name="good")], params(per_image=1)
    )
    assert [q.question for q in done.kept] == ["good"] and done.dropped == 3


def test_the_embedded_worlds_questions_are_curated_by_what_guessing_gives() -> None:
    scene = draw_scene(7, 3, 3, 3)
    sample = Sample("i", b"", "train", "scenes", "CC0-1.0", {"scene": scene.to_json()})
    settings = params(per_image=20)
    written = next(question_writer(settings, {}).write([sample]))
    assert len(written) > 10, "curation sees all of them"
    done = curate(written, settings)
    assert {len(q.options) for q in done.kept} == {5, 6}, "one of four is no better than a guess at 0.25"
    assert len(done.kept) == 2 * len(scene.things) and done.dropped == len(written) - len(done.kept)
    few = params(min_accuracy_with_image=None, max_accuracy_without_image=None)
    assert len(next(question_writer(few, {}).write([sample]))) == few.per_image, "without curation the writer draws"


def test_a_files_questions_are_curated_where_it_says_how_they_are_answered(tmp_path: Path) -> None:
    accuracies: list[dict[str, float]] = [
        {"accuracy_with_image": 0.5, "accuracy_without_image": 0.0},
        {"accuracy_with_image": 1.0, "accuracy_without_image": 0.5},
        {"accuracy_with_image": 1.0, "accuracy_without_image": 0.0},
        {},
        {"accuracy_with_image": 1.0},
        {"accuracy_with_image": 1.0, "accuracy_without_image": 0.125},
    ]
    rows = [
        {"image": "a.jpg", "question": f"{n}?", "options": ["x", "y"], "answer": "x"} | known
        for n, known in enumerate(accuracies)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = params(path="data/q.jsonl", writer={"name": "file", "encoding": "utf-8"})
    settings = settings.model_copy(update={"path": str(tmp_path / "q.jsonl")})
    sample = Sample("id", b"", "train", "folder", "CC0-1.0")
    written = next(question_writer(settings, {"id": "a.jpg"}).write([sample]))
    done = curate(written, settings)
    assert [q.question for q in done.kept] == ["2?", "3?", "4?"]
    assert (done.dropped, done.unknown) == (2, 2)


@pytest.mark.parametrize(
    "changes",
    [{"min_accuracy_with_image": 1.0}, {"max_accuracy_without_image": 0.0}, {"min_accuracy_with_image": -0.1}],
)
def test_a_threshold_that_nothing_can_pass_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        params(**changes)
