"""GRPO on the weighted sum of the rewards (the baseline of the paper).

    R(i,j) = sum_k w_k r_k(i,j)
    A(i,j) = (R(i,j) - mean_j R(i,.)) / (std + eps)       std of the group, of the batch, or no division

In the sum an unknown reward takes its group's mean of that reward, which is neutral (TRL counts it as zero); a reward
that is unknown in the whole group takes the batch's mean. A caption with no known reward at all is left out of every
mean and has advantage 0.

With ``rank_unmasked`` (ours, see ``gdpo.py``) a group in which the length mask closed has another linguistic reward in
the sum: r = mean + std * z, where z normalises the open captions among themselves, stands at -1 for masked ones and is
centred, and mean and std are those of the column as it was. So the reward keeps its place and about its weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, centred, in_groups, mean, ranked, std


def grpo(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    weights: Array,
    linguistic: int | None,
    *,
    scale: str,
    ddof: int,
    eps: float,
    rank_unmasked: bool,
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K].

    ``masked`` [N] (closed by the length mask) and ``linguistic`` (that reward's column) matter with ``rank_unmasked``
    only: otherwise the mask has done its work on the reward.
    """
    groups = in_groups(rewards, group_size)
    if rank_unmasked and linguistic is not None:
        groups = _with_ranks(groups, masked.reshape(-1, group_size), linguistic, ddof, eps)
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


def _with_ranks(groups: Array, closed: NDArray[np.bool_], linguistic: int, ddof: int, eps: float) -> Array:
    """A copy of ``groups`` whose linguistic column is ranked, in its own units, wherever the mask closed."""
    some = closed.any(axis=1)
    found, column = groups.copy(), groups[..., linguistic][some]
    z = ranked(column, closed[some], ddof, eps)
    found[..., linguistic][some] = mean(column, axis=1) + std(column, ddof, axis=1) * z
    return found
