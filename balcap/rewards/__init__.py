"""Judgements into rewards: pure arithmetic, one file per reward.

    rewards, masked = score(judgements, captions, reference, questions, weights, judge.fills, params.length_mask,
                            params.pointable)

0.0 is "known, and worst"; NaN is "unknown"; they are never exchanged. A new reward is one file, a line in
``REWARDS`` and a name in ``balcap.params.train``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from balcap.params.train import LengthMask
from balcap.records import MARKS, Caption, Judgement, Question, Reference
from balcap.rewards import length
from balcap.rewards.base import Reward
from balcap.rewards.linguistic import linguistic, over
from balcap.rewards.precision import precision, truth
from balcap.rewards.recall import recall
from balcap.rewards.utility import utility

__all__ = ["REWARDS", "Reward", "bind", "names", "needed", "quality", "score"]

Name = TypeVar("Name", bound=str)

REWARDS: dict[str, Reward] = {"precision": precision, "recall": recall, "linguistic": linguistic, "utility": utility}


def bind(fills: Iterable[str], pointable: bool = True) -> dict[str, Reward]:
    """The rewards for a judge that fills these parts: the linguistic one over the marks that this judge gives.

    ``pointable`` is ``train.pointable``; without it precision asks only whether statements are true. Evaluation leaves
    it on, so that all runs are measured alike.
    A reward whose ``needs`` the judge cannot fill stays unknown (NaN) for every caption that is worth something.
    """
    given = frozenset(fills)
    return {
        **REWARDS,
        "precision": precision if pointable else truth,
        "linguistic": over(tuple(mark for mark in MARKS if mark in given)),
    }


def names(weights: Mapping[Name, float]) -> tuple[str, ...]:
    """The rewards that are on (those that ``weights`` names), in a fixed order: the columns of :func:`score`."""
    return tuple(name for name in REWARDS if name in weights)


def needed(weights: Mapping[Name, float]) -> frozenset[str]:
    """The parts of a judgement that the rewards which are on read."""
    return frozenset().union(*(REWARDS[name].needs for name in names(weights)))


def score(
    judgements: Sequence[Judgement],
    captions: Sequence[Caption],
    reference: Reference,
    questions: tuple[Question, ...],
    weights: Mapping[Name, float],
    fills: Iterable[str],
    mask: LengthMask,
    pointable: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rewards [N, K] and the length mask [N] of captions of one picture; the linguistic column stands behind the mask.

    Columns are in the order of :func:`names`; weights are not applied here.
    """
    table = bind(fills, pointable)
    rewards = np.empty((len(captions), len(names(weights))))
    for n, (judgement, caption) in enumerate(zip(judgements, captions, strict=True)):
        for k, name in enumerate(names(weights)):
            value = table[name](judgement, caption, reference, questions)
            rewards[n, k] = length.apply(value, caption, reference, mask) if name == "linguistic" else value
    return rewards, np.array([length.masked(caption, reference, mask) for caption in captions], dtype=bool)


def quality(
    judgements: Sequence[Judgement],
    captions: Sequence[Caption],
    reference: Reference,
    questions: tuple[Question, ...],
    fills: Iterable[str],
) -> NDArray[np.float64]:
    """Every reward of :data:`REWARDS` [N, K], on or off, pointable and without the mask: what evaluation measures.

    A column that cannot be known (parts that the judge never fills, no questions) is NaN throughout: otherwise it
    would hold the known zeros of empty captions alone.
    """
    given = frozenset(fills) - (frozenset() if questions else {"answers"})
    rules = [reward if reward.needs <= given else None for reward in bind(given).values()]
    rows = zip(judgements, captions, strict=True)
    values = [[float("nan") if r is None else r(j, c, reference, questions) for r in rules] for j, c in rows]
    return np.array(values, dtype=np.float64).reshape(len(values), len(rules))
