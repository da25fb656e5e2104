"""Protocol: the three rewards as metrics (``method`` 7.5), the linguistic one without the length mask.

b-CapScore = 3 / (1/P + 1/R + 1/L)          P, R, L: means over the corpus; 0 if one of them is 0
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from balcap.records import Caption, Judgement, Reference
from balcap.rewards import bind

PARTS = ("precision", "recall", "linguistic")


def reward_scores(
    fills: frozenset[str], judgement: Judgement, caption: Caption, reference: Reference
) -> Mapping[str, float]:
    """Precision, recall and linguistic quality in [0, 1] of one caption; NaN where the judge does not know.

    A part that the judge never fills is unknown for every caption, also for an empty one, whose reward is a known 0:
    otherwise the metric would be the mean over the empty captions alone.
    """
    rules = bind(fills)
    measured = {name for name in PARTS if rules[name].needs and rules[name].needs <= fills}
    return {name: float(rules[name](judgement, caption, reference)) if name in measured else math.nan for name in PARTS}


def harmonic_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """b-CapScore of corpus means, [draws, parts] -> [draws]; 0 where a mean is 0, NaN where one is unknown."""
    worst = means.min(axis=1)
    safe = np.where(means > 0, means, 1.0)
    return np.where(worst > 0, means.shape[1] / (1.0 / safe).sum(axis=1), worst)
