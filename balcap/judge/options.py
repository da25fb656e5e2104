"""The options of a question as a model sees them: turned from round to round, under letters, one more behind them.

order = turned(question, seed=0, turn=1)         # (2, 0, 1, -1): the third option stands first
shown = lettered(question, order)                # {"question": ..., "options": {"A": ..., "D": "cannot be ..."}}
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from balcap.records import CANNOT_BE_ANSWERED, Question

UNANSWERABLE = "cannot be answered from the caption"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def turned(question: Question, seed: int, turn: int) -> tuple[int, ...]:
    """An order of the options for round ``turn``: drawn from the seed, then rotated, so that none stands twice in one
    place while there are no more rounds than options."""
    order = list(range(len(question.options)))
    Random(json.dumps([seed, question.image_id, question.question])).shuffle(order)
    start = turn % len(order)
    return (*order[start:], *order[:start], CANNOT_BE_ANSWERED)


def lettered(question: Question, order: tuple[int, ...], cannot: str = UNANSWERABLE) -> dict[str, Any]:
    """What is rendered of a question: its text, and the options under letters, ``cannot`` last."""
    shown = [cannot if index == CANNOT_BE_ANSWERED else question.options[index] for index in order]
    return {"question": question.question, "options": dict(zip(LETTERS, shown, strict=False))}
