"""GRPO on the weighted sum of the rewards (the baseline of the paper).

    R(i,j) = sum_k w_k r_k(i,j)
    A(i,j) = (R(i,j) - mean_j R(i,.)) / (std + eps)       std of the group, of the batch, or no division

In the sum an unknown reward takes its group's mean of that reward, which is neutral (TRL counts it as zero); a reward
that is unknown in the whole group takes the batch's mean. A caption with no known reward at all is left out of every
mean and has advantage 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, centred, in_groups, mean, std


def grpo(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    weights: Array,
    *,
    scale: str,
    ddof: int,
    eps: float,
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K].

    ``masked`` [N] (closed by the length mask) is not used by this rule: the mask already acted on the reward.
    """
    groups = in_groups(rewards, group_size)
    dead = np.isnan(groups).all(axis=2)
    neutral = np.where(np.isnan(groups).all(axis=1, keepdims=True), mean(groups.reshape(-1, groups.shape[2]), 0),
                       mean(groups, axis=1))  # fmt: skip
    total = np.where(np.isnan(groups), neutral, groups) @ np.asarray(weights, dtype=np.float64)
    total[dead] = np.nan
    centre, spread = mean(total, axis=1), std(total, ddof, axis=1)
    if scale == "batch":
        advantages = centred(total, centre, np.where(spread > 0.0, std(total, ddof), 0.0), eps)
    elif scale == "group":
        advantages = centred(total, centre, spread, eps)
    else:
        advantages = np.where(spread > 0.0, total - centre, 0.0)
    return np.where(dead, 0.0, advantages).ravel()
