"""Linguistic quality (paper, rewards): the mean of clarity, fluency and coherency, marks 1 to 5 mapped to [0, 1].

    r_ling = mean over the marks m that the judge can give of (m - 1) / 4                       (assumption 4)

The length mask (``length.py``) acts on it before any normalisation.
"""

from __future__ import annotations

from balcap.records import MARKS, Caption, Judgement, Question, Reference
from balcap.rewards.base import UNKNOWN, Reward, needing, worthless


def over(marks: tuple[str, ...]) -> Reward:
    """The reward over those marks that a judge declares it can fill; NaN while one of them, or every, is missing."""

    @needing(*(marks or MARKS))
    def linguistic(
        judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()
    ) -> float:
        if worthless(caption):
            return 0.0
        given = [getattr(judgement, name) for name in marks]
        if not given or None in given:
            return UNKNOWN
        return sum((mark - 1) / 4 for mark in given) / len(given)

    return linguistic


linguistic = over(MARKS)
"""The reward of a judge that gives all three marks."""
