"""Utility (CapRL, arXiv 2509.22647): what a reader who sees only the caption can answer about the picture.

    r_util = mean over questions q of  #{ rounds in which the right option was chosen } / #rounds

The judge is a text-only reader; the option 'cannot be answered' is never right. Not a reward of BalCapRL.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from balcap.records import Caption, Judgement, Question, Reference
from balcap.rewards.base import UNKNOWN, needing, worthless


@needing("answers")
def utility(
    judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()
) -> float:
    """In [0, 1]; NaN without questions, or while the answers are unknown."""
    return 0.0 if worthless(caption) else share_right(judgement.answers, questions)


def share_right(answers: Sequence[Sequence[int]] | None, questions: Sequence[Question]) -> float:
    """Mean over questions of the share of rounds answered rightly; NaN without questions or answers to them."""
    if not questions or answers is None or len(answers) != len(questions):
        return UNKNOWN
    return fmean(sum(a == q.answer for a in rounds) / len(rounds) for q, rounds in zip(questions, answers, strict=True))
