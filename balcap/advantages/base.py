"""NaN-aware statistics in float64, shared by the advantage rules.

TRL computes advantages in float32: in a batch whose groups are all constant, rounding in the mean leaves residues that
the division by a spread of nearly zero blows up. Here a spread below :data:`TOLERANCE` counts as zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Rewards are shares of a few dozen statements: two that differ at all differ by far more; float32 noise by less."""


def mean(values: Array, axis: int | None = None) -> Array:
    """Mean of the known values along ``axis`` (kept); 0.0 where none is known."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis, keepdims=True)
    return np.where(known, values, 0.0).sum(axis=axis, keepdims=True) / np.maximum(count, 1)


def std(values: Array, ddof: int, axis: int | None = None) -> Array:
    """Standard deviation of the known values along ``axis`` (kept); 0.0 below the tolerance or with too few values."""
    known = ~np.isnan(values)
    square = np.where(known, values - mean(values, axis), 0.0) ** 2
    free = known.sum(axis=axis, keepdims=True) - ddof
    spread = np.sqrt(square.sum(axis=axis, keepdims=True) / np.maximum(free, 1))
    return np.where((free > 0) & (spread > TOLERANCE), spread, 0.0)


def centred(values: Array, centre: Array, spread: Array, eps: float) -> Array:
    """(values - centre) / (spread + eps), and 0.0 where the spread is zero; unknown stays NaN."""
    return np.where(spread > 0.0, (values - centre) / (spread + eps), np.where(np.isnan(values), np.nan, 0.0))


def floored(spread: Array, floor: float | Array) -> Array:
    """Spreads raised to ``floor``; zero stays zero, for where nothing differs there is nothing to learn."""
    return np.where(spread > 0.0, np.maximum(spread, floor), 0.0)


def ranked(column: Array, masked: NDArray[np.bool_], ddof: int, eps: float, floor: float = 0.0) -> Array:
    """z of one reward [groups, group_size] of which the captions ``masked`` (of the same shape) are not its own.

    The captions that the mask leaves open are normalised among themselves, the masked ones stand at -1, then the group
    is centred. Unknown stays NaN and takes part in nothing.
    """
    open_ = np.where(masked, np.nan, column)
    z = centred(open_, mean(open_, axis=1), floored(std(open_, ddof, axis=1), floor), eps)
    z = np.where(masked & ~np.isnan(column), -1.0, z)
    return z - mean(z, axis=1)


def with_batch_step(total: Array, dead: NDArray[np.bool_], on: bool, ddof: int, eps: float) -> Array:
    """Advantages [N] of sums [N]: normalised over the batch if ``on``; ``dead`` captions take no part and have 0."""
    total = np.where(dead, np.nan, total)
    if on:
        total = centred(total, mean(total), std(total, ddof), eps)
    return np.where(dead, 0.0, total)


def in_groups(rewards: Array, group_size: int) -> Array:
    """Rewards [N, K] as float64 [groups, group_size, K]; raises ``ValueError`` when groups do not fit."""
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim != 2 or len(rewards) % group_size:
        raise ValueError(f"rewards of shape {rewards.shape} are not whole groups of {group_size}")
    return rewards.reshape(-1, group_size, rewards.shape[1])
