"""Dr. GRPO (arXiv 2503.20783): the weighted sum of the rewards less its group's mean, divided by no spread.

    R(i,j) = sum_k w_k r_k(i,j)          A(i,j) = R(i,j) - mean_j R(i,.)

Dividing by a group's spread would make easy and hopeless pictures count more than the others. The paper's other half, a
loss that divides by the longest caption allowed, is ``train.loss.type: dr_grpo``. Either may be used without the other:
they cure different faults (the weight of a picture, the weight of a long caption), and an ablation takes one at a time.
The advantages keep the rewards' own scale, so that a reward in [0, 1] moves the policy less than one of unit spread.
Unknown rewards are neutral, as in ``grpo.py``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array
from balcap.advantages.grpo import grpo


def dr_grpo(
    rewards: Array, masked: NDArray[np.bool_], group_size: int, weights: Array, linguistic: int | None
) -> Array:
    """Advantages float64 [N] from rewards [N, K] whose rows lie group after group, and weights [K]."""
    return grpo(rewards, masked, group_size, weights, linguistic, scale="none", ddof=1, eps=0.0, rank_unmasked=False)
