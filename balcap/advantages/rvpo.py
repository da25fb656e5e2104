"""RVPO (arXiv 2605.05750): a soft minimum over the rewards' z-scores, so that a caption cannot buy one with another.

    z_k(i,j) = as in ``gdpo.py``         p_k = w_k / sum_k w_k
    S(i,j)   = - sum_k w_k / sharpness * log sum_k p_k exp(-sharpness * z_k(i,j))
             ≈ sum_k w_k z_k - sharpness / 2 * (variance of z over the rewards, weighted) * sum_k w_k
    C(i,j)   = S(i,j) - mean_j S(i,.)
    A(i,j)   = (C - mean C) / (std C + eps)               over the whole batch; A = C without the batch step

With sharpness towards 0 it is GDPO, with a large one the smallest z times sum_k w_k. The paper has equal weights and no
C; both are ours. A soft minimum lies below the mean: without C a group whose rewards conflict would be pushed down as a
whole and one without any difference up. Where GDPO has a mean of 0 in each group by itself, C changes nothing.

Unknown rewards are neutral, z = 0, and so is one that is constant in its group; unlike in a sum, either still caps the
minimum at 0. A caption with no known reward at all is left out of every mean and has advantage 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, mean, with_batch_step
from balcap.advantages.gdpo import z_scores

EPSILON = float(np.finfo(np.float64).eps)


def rvpo(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    weights: Array,
    linguistic: int | None,
    *,
    sharpness: float,
    ddof: int,
    eps: float,
    std_floor: float | Array,
    batch_step: bool,
    rank_unmasked: bool,
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K]."""
    z, dead = z_scores(rewards, masked, group_size, linguistic if rank_unmasked else None, ddof, eps, std_floor)
    total = np.where(dead, np.nan, _soft_minimum(z, np.asarray(weights, dtype=np.float64), sharpness))
    groups = total.reshape(-1, group_size)
    return with_batch_step((groups - mean(groups, axis=1)).ravel(), dead, batch_step, ddof, eps)


def _soft_minimum(z: Array, weights: Array, sharpness: float) -> Array:
    """S [N] of z [N, K]; the smallest z is taken out of the exponents, so that none overflows and none is lost."""
    counted = z[:, weights > 0]
    shares = weights[weights > 0] / weights.sum()
    low = counted.min(axis=1, keepdims=True)
    less_one = (shares * np.expm1(-sharpness * (counted - low))).sum(axis=1)
    found: Array = weights.sum() * (low[:, 0] - np.log1p(np.maximum(less_one, -1.0 + EPSILON)) / sharpness)
    return found
