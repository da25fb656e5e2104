"""How far verdicts and rewards agree with the truth, with bootstrap intervals over pictures.

    error      = (fp + fn) / n          precision = tp / (tp + fp)          recall = tp / (tp + fn)
    kappa      = (p_o - p_e) / (1 - p_e)       p_o the share that agrees, p_e the share that would by luck
    bias       = mean(judge - truth)        noise = standard deviation of (judge - truth), ddof 1
    correlation of judge and truth (Pearson); undefined where one of the two never changes

A picture is the unit that is drawn, for its verdicts are not independent. What is undefined (no positive verdict, say)
is NaN in a draw and left out; without any defined draw the statistic is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from balcap.evaluation.stats import UNKNOWN, Score

Array = NDArray[np.float64]
DRAWS = 2000
CONFIDENCE = 0.95
TINY = 1e-12
"""Variance of what never changes, but for rounding."""


def verdicts(truth: Sequence[Sequence[bool]], said: Sequence[Sequence[bool]], seed: int = 0) -> dict[str, Score]:
    """Agreement on verdicts, one sequence per picture; n counts verdicts."""
    table = np.array([_counts(t, s) for t, s in zip(truth, said, strict=True)], dtype=np.float64).reshape(-1, 4)
    n = int(table.sum())
    return {name: _interval(rule, table, n, seed) for name, rule in VERDICT_RULES.items()}


def differences(truth: Sequence[Sequence[float]], said: Sequence[Sequence[float]], seed: int = 0) -> dict[str, Score]:
    """Bias, noise and correlation of a reward, one sequence of captions per picture; NaN (unknown) is left out."""
    table = np.array([_moments(t, s) for t, s in zip(truth, said, strict=True)], dtype=np.float64).reshape(-1, 8)
    n = int(table[:, 0].sum())
    return {name: _interval(rule, table, n, seed) for name, rule in DIFFERENCE_RULES.items()}


def _counts(truth: Sequence[bool], said: Sequence[bool]) -> list[int]:
    """True and false positives, false and true negatives."""
    pairs = list(zip(truth, said, strict=True))
    return [pairs.count(kind) for kind in ((True, True), (False, True), (True, False), (False, False))]


def _moments(truth: Sequence[float], said: Sequence[float]) -> list[float]:
    """n, sum and squares of the differences; then the sums of t, s, tt, ss, ts."""
    t, s = np.asarray(truth, dtype=np.float64), np.asarray(said, dtype=np.float64)
    known = ~np.isnan(t - s)
    t, s = t[known], s[known]
    gap = s - t
    return [float(known.sum()), *(float(x.sum()) for x in (gap, gap**2, t, s, t * t, s * s, t * s))]


def _interval(rule: Callable[[Array], Array], table: Array, n: int, seed: int) -> Score:
    """The statistic of the sums over pictures, and the quantiles of its bootstrap draws."""
    if n == 0:
        return UNKNOWN
    pictures = len(table)
    drawn = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1.0 / pictures), size=DRAWS)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = rule(table.sum(axis=0, keepdims=True))[0]
        draws = rule(drawn @ table)
    if np.isnan(value) or np.isnan(draws).all():
        return Score(None, None, None, n)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.nanquantile(draws, [tail, 1.0 - tail])
    return Score(float(value), float(low), float(high), n)


def _error(c: Array) -> Array:
    return (c[:, 1] + c[:, 2]) / c.sum(axis=1)


def _kappa(c: Array) -> Array:
    n = c.sum(axis=1)
    agreed = (c[:, 0] + c[:, 3]) / n
    yes = (c[:, 0] + c[:, 2]) * (c[:, 0] + c[:, 1])
    no = (c[:, 1] + c[:, 3]) * (c[:, 2] + c[:, 3])
    luck = (yes + no) / n**2
    return (agreed - luck) / (1.0 - luck)


def _noise(s: Array) -> Array:
    n, total, squares = s.T[:3]
    variance = np.maximum(squares - total**2 / n, 0.0) / (n - 1.0)
    return np.where(n > 1, np.sqrt(variance), np.nan)


def _correlation(sums: Array) -> Array:
    n = sums[:, 0]
    t, s, tt, ss, ts = (column / n for column in sums.T[3:])
    spread_t, spread_s = tt - t**2, ss - s**2
    changes = (spread_t > TINY) & (spread_s > TINY)
    return np.where(changes, (ts - t * s) / np.sqrt(np.where(changes, spread_t * spread_s, 1.0)), np.nan)


VERDICT_RULES: dict[str, Callable[[Array], Array]] = {
    "error": _error,
    "precision": lambda c: c[:, 0] / (c[:, 0] + c[:, 1]),
    "recall": lambda c: c[:, 0] / (c[:, 0] + c[:, 2]),
    "kappa": _kappa,
}
DIFFERENCE_RULES: dict[str, Callable[[Array], Array]] = {
    "bias": lambda s: s[:, 1] / s[:, 0],
    "noise": _noise,
    "correlation": _correlation,
}
