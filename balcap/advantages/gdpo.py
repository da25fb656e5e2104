"""c-GDPO (paper; GDPO, arXiv 2601.05242, eq. 4 to 7): every reward is normalised in its group, then they are added.

    z_k(i,j) = (r_k(i,j) - mean_j r_k(i,.)) / (max(std_j r_k(i,.), std_floor) + eps)
    S(i,j)   = sum_k w_k z_k(i,j)
    A(i,j)   = (S(i,j) - mean S) / (std S + eps)          over the whole batch; A = S without the batch step

An unknown reward is neutral, z = 0, which is its group's mean. A caption with no known reward at all is left out of
every mean and has advantage 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, centred, in_groups, mean, std


def gdpo(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    weights: Array,
    *,
    ddof: int,
    eps: float,
    std_floor: float,
    batch_step: bool,
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K].

    ``masked`` [N] (closed by the length mask) is not used by this rule: the mask already acted on the reward.
    """
    groups = in_groups(rewards, group_size)
    spread = std(groups, ddof, axis=1)
    z = centred(groups, mean(groups, axis=1), np.where(spread > 0.0, np.maximum(spread, std_floor), 0.0), eps)
    dead = np.isnan(groups).all(axis=2).ravel()
    total = np.where(np.isnan(z), 0.0, z).reshape(len(dead), -1) @ np.asarray(weights, dtype=np.float64)
    total[dead] = np.nan
    if batch_step:
        total = centred(total, mean(total), std(total, ddof), eps)
    return np.where(dead, 0.0, total)
