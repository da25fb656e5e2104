"""c-GDPO (paper; GDPO, arXiv 2601.05242, eq. 4 to 7): every reward is normalised in its group, then they are added.

    z_k(i,j) = (r_k(i,j) - mean_j r_k(i,.)) / (max(std_j r_k(i,.), std_floor) + eps)
    S(i,j)   = sum_k w_k z_k(i,j)
    A(i,j)   = (S(i,j) - mean S) / (std S + eps)          over the whole batch; A = S without the batch step

An unknown reward is neutral, z = 0, which is its group's mean. A caption with no known reward at all is left out of
every mean and has advantage 0.

With ``rank_unmasked`` (ours) the linguistic z of a group in which the length mask closed is another one. The mask's 0
is an outlier that leaves the captions beside it almost no spread (one masked of eight: -2.47 against +0.35), so that
the channel says little but the length. Instead

    z_open = (r - mean r) / (max(std r, std_floor) + eps)      over the group's open captions only
    z      = (z_open where open, -1 where masked) - mean of these
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array, centred, floored, in_groups, mean, ranked, std, with_batch_step


def gdpo(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    weights: Array,
    linguistic: int | None,
    *,
    ddof: int,
    eps: float,
    std_floor: float | Array,
    batch_step: bool,
    rank_unmasked: bool,
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K].

    ``masked`` [N] (closed by the length mask) and ``linguistic`` (that reward's column) matter with ``rank_unmasked``
    only: otherwise the mask has done its work on the reward. ``std_floor`` is one number or one per reward [K].
    """
    z, dead = z_scores(rewards, masked, group_size, linguistic if rank_unmasked else None, ddof, eps, std_floor)
    return with_batch_step(z @ np.asarray(weights, dtype=np.float64), dead, batch_step, ddof, eps)


def z_scores(
    rewards: Array,
    masked: NDArray[np.bool_],
    group_size: int,
    ranked_column: int | None,
    ddof: int,
    eps: float,
    std_floor: float | Array,
) -> tuple[Array, NDArray[np.bool_]]:
    """z [N, K], 0 where the reward is unknown, and the captions [N] of which no reward is known.

    ``ranked_column`` is the reward whose masked captions stand apart (``rank_unmasked``), or None.
    """
    groups = in_groups(rewards, group_size)
    floors = np.broadcast_to(np.asarray(std_floor, dtype=np.float64), groups.shape[2])
    z = centred(groups, mean(groups, axis=1), floored(std(groups, ddof, axis=1), floors), eps)
    if ranked_column is not None:
        closed = masked.reshape(-1, group_size)
        some, column = closed.any(axis=1), groups[..., ranked_column]
        z[..., ranked_column][some] = ranked(column[some], closed[some], ddof, eps, floors[ranked_column])
    dead = np.isnan(groups).all(axis=2).ravel()
    return np.where(np.isnan(z), 0.0, z).reshape(len(dead), -1), dead
