"""Intervals for an arm, and for the difference of two arms, over seeds and pictures.

    d_s       = difference of the two arms in seed s: same seed, same warm start, same pictures in the same order
    value     = mean of d_s over the S seeds
    variance  = var(d_s) / S + variance of the mean over draws of pictures
    interval  = value ± t(df) * sqrt(variance),     df by Welch and Satterthwaite

- **End**: the held-out pictures are the same in all seeds, so what belongs to them cannot be seen in the spread between
  seeds. It is added from a bootstrap over pictures that draws the same pictures for both arms and all seeds. What seeds
  and pictures do together is counted twice: the interval is a little too wide, never too narrow for that reason.
- **Curve**: the mean over the steps of training, on captions of pictures that training has not met before; df = S - 1.
  Each seed takes the same pool of training pictures in another order, so these intervals speak of other seeds, not of
  other pictures.
  What captions are worth is there the word of the judge in training: curves of arms with different judges are never
  compared (:func:`comparable`).
- **Warm start**: seeds that start from the same one find the same captions there. Its level therefore counts each warm
  start once. A comparison with it keeps all seeds: given the two warm starts, what differs between seeds is their own
  chance, the warm starts' difference only widens the spread, and the chance in the shared captions lies in the
  pictures, which the bootstrap draws for all seeds at once.

A bootstrap over seeds would be simpler, but three seeds give it ten different draws, and intervals that cover far less
than they claim. With one seed there is no interval. What no interval here covers: other worlds, judges, models, and
warm starts beyond the two (seeds that share one are treated as independent).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from balcap.evaluation.rewards import PARTS, harmonic_mean
from balcap.study.arms import ARMS, BASES, warmstart_seed
from balcap.study.data import Study

Array = NDArray[np.float64]
At = Literal["end", "curve"]
DRAWS = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Metric:
    """A corpus score: a function of the means of its columns, [..., columns] -> [...]."""

    label: str
    columns: tuple[str, ...]
    of: Callable[[Array], Array]
    digits: int = 3


def _alone(means: Array) -> Array:
    return means[..., 0]


def _harmonic(means: Array) -> Array:
    flat = harmonic_mean(means.reshape(-1, means.shape[-1]))
    return np.asarray(flat.reshape(means.shape[:-1]))


def _share(means: Array) -> Array:
    """First of the two columns per unit of the second."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(means[..., 0] / means[..., 1])


def _balance(means: Array) -> Array:
    """1 when two forms are equally frequent, 0 when one of them is left."""
    return 1.0 - np.abs(2.0 * _share(means) - 1.0)


FORMS = ("place_first", "objects")
METRICS = {
    "precision": Metric("P", ("precision",), _alone),
    "recall": Metric("R", ("recall",), _alone),
    "linguistic": Metric("L", ("linguistic",), _alone),
    "b_capscore": Metric("b-CapScore", PARTS, _harmonic),
    "f1": Metric("F1 of P and R", ("precision", "recall"), _harmonic),
    "qa_accuracy": Metric("QA", ("qa_accuracy",), _alone),
    "arena": Metric("arena", ("arena",), _alone),
    "words": Metric("words", ("words",), _alone, 1),
    "commentary": Metric("commentary", ("commentary",), _alone, 2),
    "repeats": Metric("repeats", ("repeats",), _alone, 2),
    "repetition": Metric("repetition", ("repetition",), _alone, 1),
    "relations": Metric("relations", ("relations",), _alone, 2),
    "place_first": Metric("place first", FORMS, _share, 2),
    "form_balance": Metric("balance of forms", FORMS, _balance, 2),
}
"""Metrics of tables and claims. Commentary, repeats and relations are counts per caption."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (NaN with fewer than two seeds) and the values of the seeds."""

    value: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


def comparable(arm: str, against: str, metric: Metric, at: At) -> bool:
    """Whether one judge gave both scores: always at the end; over training only if it judged both, or none is asked."""
    return at == "end" or ARMS[arm].judge == ARMS[against].judge or metric.columns == METRICS["words"].columns


def level(study: Study, arm: str, metric: Metric) -> Estimate:
    """The score of one arm at the end, or of a warm start, whose seeds are those of its own training."""
    seeds = [seed for seed in study.seeds(arm) if arm not in BASES or seed == warmstart_seed(seed)]
    draws = np.stack([_end(study, arm, seed, metric) for seed in seeds])
    return interval(draws[:, 0].tolist(), _variance(draws), study.pictures(arm))


def effect(study: Study, arm: str, against: str, metric: Metric, at: At) -> Estimate:
    """By how much ``arm`` scores higher than ``against``, pair by pair, over the seeds that both have."""
    seeds = [seed for seed in study.seeds(arm, at) if seed in study.seeds(against, at)]
    if at == "curve":
        return interval([_curve(study, arm, s, metric) - _curve(study, against, s, metric) for s in seeds])
    draws = np.stack([_end(study, arm, seed, metric) - _end(study, against, seed, metric) for seed in seeds])
    return interval(draws[:, 0].tolist(), _variance(draws), study.pictures(arm))


def interval(per_seed: Sequence[float], shared: float = 0.0, pictures: int = 2) -> Estimate:
    """Mean of the seeds with its interval; ``shared`` is the variance of that mean over draws of pictures."""
    values = np.asarray(per_seed, dtype=np.float64)
    value = float(values.mean())
    if len(values) < 2 or not np.isfinite([*values, shared]).all():
        return Estimate(value, math.nan, math.nan, tuple(values.tolist()))
    between = float(values.var(ddof=1)) / len(values)
    total = between + shared
    if total == 0.0:
        return Estimate(value, value, value, tuple(values.tolist()))
    df = total**2 / (between**2 / (len(values) - 1) + shared**2 / max(pictures - 1, 1))
    half = float(student.ppf((1 + CONFIDENCE) / 2, df)) * math.sqrt(total)
    return Estimate(value, value - half, value + half, tuple(values.tolist()))


def _curve(study: Study, arm: str, seed: int, metric: Metric) -> float:
    """Mean over steps of the score of each step."""
    rows = study.curves[arm, seed]
    return float(np.nanmean(metric.of(_stack(rows, metric.columns))))


def _end(study: Study, arm: str, seed: int, metric: Metric) -> Array:
    """The score of each draw of pictures, [1 + draws], the pictures as they are first; draws depend on their number.

    A picture where a column is unknown is left out.
    """
    columns = _stack(study.scores[arm, seed], metric.columns)
    known = np.isfinite(columns).all(axis=1)
    weights = _weights(len(columns))[:, known]
    with np.errstate(invalid="ignore", divide="ignore"):
        return metric.of(weights @ columns[known] / weights.sum(axis=1, keepdims=True))


def _stack(rows: Mapping[str, Array], columns: Sequence[str]) -> Array:
    return np.stack([rows[name] for name in columns], axis=1)


def _weights(pictures: int) -> Array:
    drawn = np.random.default_rng(0).multinomial(pictures, np.full(pictures, 1.0 / pictures), size=DRAWS)
    return np.concatenate([np.ones((1, pictures)), drawn])


def _variance(draws: Array) -> float:
    """Of the mean over seeds, over the draws; [seeds, 1 + draws]."""
    means = draws[:, 1:].mean(axis=0)
    return float(np.nanvar(means, ddof=1)) if np.isfinite(means).any() else math.nan
