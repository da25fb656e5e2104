"""Curation of questions (CapRL, arXiv 2509.22647): keep what can be answered with the picture and not without it.

    keep(question)  =  accuracy_with_image > 0.75  and  accuracy_without_image < 0.25

    done = curate(questions, params.collect_questions)
    done.kept, done.dropped, done.unknown

A question that a good reader with the picture gets wrong is unclear or false; one that is answered without it rewards
guessing. Both thresholds are parameters and exclusive; null is no test. An accuracy that is unknown (NaN) passes, and
its question is counted: nothing is thrown away for want of a measurement. At most ``per_image`` of the questions kept
per picture remain, the first ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from balcap.params.collect import CollectQuestions
from balcap.records import Question


@dataclass(frozen=True)
class Curated:
    """The questions that remain, in order; how many failed a test, and how many passed one for want of knowledge."""

    kept: list[Question]
    dropped: int
    unknown: int


def keep(question: Question, min_with: float | None, max_without: float | None) -> bool:
    """Whether no known accuracy speaks against a question; thresholds in [0, 1], exclusive, None = no test."""
    unseen = min_with is not None and question.accuracy_with_image <= min_with
    guessed = max_without is not None and question.accuracy_without_image >= max_without
    return not (unseen or guessed)  # NaN compares false: unknown passes


def untested(question: Question, min_with: float | None, max_without: float | None) -> bool:
    """Whether a test would need an accuracy that is unknown."""
    tested = ((min_with, question.accuracy_with_image), (max_without, question.accuracy_without_image))
    return any(limit is not None and math.isnan(accuracy) for limit, accuracy in tested)


def curate(questions: Iterable[Question], params: CollectQuestions) -> Curated:
    """Apply the thresholds, then the limit per picture; ``unknown`` counts among the questions that remain."""
    limits = (params.min_accuracy_with_image, params.max_accuracy_without_image)
    given = list(questions)
    passed = [question for question in given if keep(question, *limits)]
    taken: Counter[str] = Counter()
    kept = []
    for question in passed:
        taken[question.image_id] += 1
        if taken[question.image_id] <= params.per_image:
            kept.append(question)
    return Curated(kept, len(given) - len(passed), sum(untested(question, *limits) for question in kept))
