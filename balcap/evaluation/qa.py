"""Protocol: question answering from the caption alone; the judge reads the caption and answers, or abstains.

accuracy = mean over questions of the share of rounds that gave the right option; an abstention counts 0
"""

from __future__ import annotations

from collections.abc import Sequence

from balcap.records import Judgement, Question
from balcap.rewards.utility import share_right


def accuracy(judgement: Judgement, questions: Sequence[Question]) -> float:
    """Accuracy in [0, 1] of one caption as it stands; NaN without questions, or when the judge did not answer them."""
    return share_right(judgement.answers, questions)
