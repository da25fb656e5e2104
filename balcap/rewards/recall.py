"""Recall (paper, rewards): the share of the reference's units that the caption covers.

r_rec = |{ u in U(y*) : covered(u, y) }| / |U(y*)|
"""

from __future__ import annotations

from balcap.records import Caption, Judgement, Question, Reference
from balcap.rewards.base import UNKNOWN, needing, worthless


@needing("covered")
def recall(judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()) -> float:
    """In [0, 1]; NaN while coverage is unknown, or the reference has no units or other ones than were judged."""
    if worthless(caption):
        return 0.0
    covered = judgement.covered
    if covered is None or not reference.units or len(covered) != len(reference.units):
        return UNKNOWN
    return sum(covered) / len(covered)
