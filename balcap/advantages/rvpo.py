"""RVPO (arXiv 2605.05750): a soft minimum over the rewards' z-scores, so that a caption cannot buy one with another.

    z_k(i,j) = as in ``gdpo.py``         p_k = w_k / sum_k w_k
    S(i,j)   = - sum_k w_k / sharpness * log sum_k p_k exp(-sharpness * z_k(i,j))
             ≈ sum_k w_k z_k - sharpness / 2 * (variance of z over the rewards, weighted) * sum_k w_k
    A(i,j)   = (S - mean S) / (std S + eps)               over the whole batch; A = S without the batch step

With sharpness towards 0 it is GDPO. The paper has equal weights; the weighted form is ours. Unknown rewards are
neutral, z = 0; a caption with no known reward at all is left out of every mean and has advantage 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, with_batch_step
from balcap.advantages.gdpo import z_scores


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
    return with_batch_step(
        _soft_minimum(z, np.asarray(weights, dtype=np.float64), sharpness), dead, batch_step, ddof, eps
    )


def _soft_minimum(z: Array, weights: Array, sharpness: float) -> Array:
    """S [N] of z [N, K]; the smallest z is taken out of the exponents, so that none overflows."""
    counted = z[:, weights > 0]
    shares = weights[weights > 0] / weights.sum()
    low = counted.min(axis=1, keepdims=True)
    inside = (shares * np.exp(-sharpness * (counted - low))).sum(axis=1)
    total: Array = weights.sum() * (low[:, 0] - np.log(inside) / sharpness)
    return total
