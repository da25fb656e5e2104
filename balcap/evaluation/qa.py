"""Protocol: question answering from the caption alone; the judge reads the caption and answers, or abstains.

accuracy = mean over questions of the share of rounds that gave the right option; an abstention counts 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from balcap.records import Judgement, Question


def accuracy(judgement: Judgement, questions: Sequence[Question]) -> float:
    """Accuracy in [0, 1] of one caption; NaN without questions, or when the judge did not answer them."""
    answers = judgement.answers
    if not questions or answers is None:
        return math.nan
    pairs = zip(questions, answers, strict=True)
    return fmean(sum(a == q.answer for a in rounds) / len(rounds) if rounds else 0.0 for q, rounds in pairs)
