"""What one generation phase looks like in numbers; every name of design section 6 but the times.

reward/NAME/{mean, std, group_std, dead, unknown}   over captions; group_std the mean spread inside groups, dead the
                                                    share of groups without any, unknown the share of captions
correlation/A-B    of two rewards inside groups: Pearson over the captions of which both are known, each less its
                   group's mean; unknown where one of them does not differ
length/{words, ratio, masked}    judge/failure_rate    advantage/std
sampling/{zeroed, truncated}    shares of vLLM's importance weights (one per caption or token) that are zero, so that it
                   teaches nothing, and that stand at a limit; unknown without vLLM
policy/entropy     of the next token, mean over the phase's updates
text/{repetition, hedging, self_praise}             per 100 words, mean over captions (``balcap.evaluation.detectors``)
quality/NAME       mean of every reward that the judge's answers allow, on or off, pointable and without the length
                   mask, as evaluation measures it: runs that reward different things are compared on it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import TOLERANCE, Array, mean, std
from balcap.evaluation.detectors import DETECTORS
from balcap.rewards import REWARDS

REWARD = ("mean", "std", "group_std", "dead", "unknown")
TEXT = tuple(f"text/{name}" for name in DETECTORS)
QUALITY = tuple(f"quality/{name}" for name in REWARDS)
OTHER = ("length/words", "length/ratio", "length/masked", *TEXT, *QUALITY, "judge/failure_rate", "advantage/std")
IMPORTANCE = ("sampling/zeroed", "sampling/truncated")
ENTROPY = "policy/entropy"
TIMES = ("generate", "judge_total", "judge_exposed", "logprobs", "update", "step", "samples")
"""Seconds; ``step`` is a whole step without ``samples``, the look at the fixed pictures behind it."""


def metric_names(rewards: Sequence[str]) -> list[str]:
    """All names, in the order of the curves' columns."""
    own = [f"reward/{name}/{kind}" for name in rewards for kind in REWARD]
    return [*own, *(f"correlation/{a}-{b}" for a, b in combinations(rewards, 2)), *OTHER, *IMPORTANCE, ENTROPY]


def reward_metrics(name: str, column: Array, group_size: int) -> dict[str, float]:
    """The five numbers of one reward [N]; mean and spread NaN when none is known.

    A group with fewer than two known values has no known spread; it is dead, for it teaches nothing.
    """
    known, groups = column[~np.isnan(column)], column.reshape(-1, group_size)
    inside = std(groups, ddof=1, axis=1).ravel()
    spread = inside[(~np.isnan(groups)).sum(axis=1) > 1]
    nan = float("nan")
    values = (
        float(known.mean()) if len(known) else nan,
        float(known.std(ddof=1)) if len(known) > 1 else nan,
        float(spread.mean()) if len(spread) else nan,
        float((inside == 0.0).mean()),
        1.0 - len(known) / len(column),
    )
    return {f"reward/{name}/{kind}": value for kind, value in zip(REWARD, values, strict=True)}


def correlation(pair: Array, group_size: int) -> float:
    """Pearson correlation of two rewards [N, 2] inside groups; NaN where it is unknown or one does not differ."""
    both = np.where(np.isnan(pair).any(axis=1, keepdims=True), np.nan, pair).reshape(-1, group_size, 2)
    away = (both - mean(both, axis=1)).reshape(-1, 2)
    x, y = away[~np.isnan(away).any(axis=1)].T
    spread = np.sqrt([(x**2).sum(), (y**2).sum()])
    return float((x * y).sum() / spread.prod()) if spread.min() > TOLERANCE else float("nan")


def over_ranks(accounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counts of all ranks together, by name; zeros are kept, and a count that some ranks lack is theirs who have it."""
    names = dict.fromkeys(name for account in accounts for name in account)
    return {name: sum(account.get(name, 0.0) for account in accounts) for name in names}


def importance_metrics(zeroed: float, truncated: float, count: float) -> dict[str, float]:
    """Shares of importance weights from how many there are of each kind; NaN when there are none at all."""
    nan = float("nan")
    return dict(zip(IMPORTANCE, (zeroed / count, truncated / count) if count else (nan, nan), strict=True))


def batch_metrics(
    names: Sequence[str],
    rewards: Array,
    masked: NDArray[np.bool_],
    words: Array,
    ratio: Array,
    text: Array,
    quality: Array,
    failure_rate: float,
    advantages: Array,
    group_size: int,
) -> dict[str, float]:
    """Metrics of one batch of captions: rewards [N, K], text [N, detectors], quality [N, rewards that there are], else
    [N], rows group after group.
    """
    found: dict[str, float] = {}
    for k, name in enumerate(names):
        found |= reward_metrics(name, rewards[:, k], group_size)
    for (i, a), (j, b) in combinations(enumerate(names), 2):
        found[f"correlation/{a}-{b}"] = correlation(rewards[:, [i, j]], group_size)
    return found | {
        "length/words": float(words.mean()),
        "length/ratio": _known_mean(ratio),
        "length/masked": float(masked.mean()),
        **dict(zip(TEXT, text.mean(axis=0).tolist(), strict=True)),
        **{name: _known_mean(column) for name, column in zip(QUALITY, quality.T, strict=True)},
        "judge/failure_rate": failure_rate,
        "advantage/std": float(advantages.std()),
    }


def _known_mean(column: Array) -> float:
    """Mean of the known values of a column [N]; NaN when there is none."""
    return float("nan") if np.isnan(column).all() else float(mean(column)[0])
