"""Precision with pointability (paper, rewards): the share of a caption's assertions that are true and visible.

    r_prec = |{ a in A(y) : verified(a) and pointable(a) }| / |A(y)|        train.pointable: true, and in evaluation
    r_true = |{ a in A(y) : verified(a) }| / |A(y)|                         train.pointable: false

Assertions that fail a test stay in the denominator; a caption that asserts nothing has precision 0. The second form is
the paper's ablation: statements that nobody can check, such as "the mood is calm", are then free padding.
"""

from __future__ import annotations

from balcap.records import Caption, Judgement, Question, Reference
from balcap.rewards.base import UNKNOWN, needing, worthless


@needing("assertions")
def precision(
    judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()
) -> float:
    """In [0, 1]; NaN while the assertions are unknown."""
    return _share(judgement, caption, pointable=True)


@needing("assertions")
def truth(judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()) -> float:
    """Precision without pointability, in [0, 1]; NaN while the assertions are unknown."""
    return _share(judgement, caption, pointable=False)


def _share(judgement: Judgement, caption: Caption, pointable: bool) -> float:
    if worthless(caption):
        return 0.0
    if judgement.assertions is None:
        return UNKNOWN
    good = sum(a.verified and (a.pointable or not pointable) for a in judgement.assertions)
    return good / len(judgement.assertions) if judgement.assertions else 0.0
