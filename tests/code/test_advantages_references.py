"""Every advantage rule against numbers found another way: by hand, or in plain Python, caption by caption."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest

from balcap.advantages import RULES

Column = list[float]
GROUP = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.5, 0.75]]
"""Four captions of one picture, two rewards: standard deviations sqrt(1/6) and sqrt(0.171875), ddof 1."""


def run(rule: str, rewards: Any, weights: Any, size: int = 4, **settings: Any) -> np.ndarray:
    rewards = np.asarray(rewards, dtype=np.float64)
    return RULES[rule](rewards, np.zeros(len(rewards), bool), size, np.asarray(weights, dtype=float), None, **settings)


Z = {"ddof": 1, "eps": 1e-12, "std_floor": 0.0, "rank_unmasked": False}


def z_scores(column: Column) -> Column:
    """Of one group, by the standard library."""
    spread = statistics.stdev(column)
    return [(value - statistics.mean(column)) / spread if spread else 0.0 for value in column]


def soft_minimum(z: Column, weights: Column, sharpness: float) -> float:
    total = sum(weights)
    return (
        -total
        / sharpness
        * math.log(sum(w / total * math.exp(-sharpness * x) for w, x in zip(weights, z, strict=True)))
    )


def test_dr_grpo_by_hand() -> None:
    """Sums 2 r1 + r2 = 1, 2, 1.5, 1.75 with mean 1.5625."""
    assert run("dr_grpo", GROUP, [2, 1]) == pytest.approx([-0.5625, 0.4375, -0.0625, 0.1875])


def test_grpo_by_hand() -> None:
    """The same sums; their variance (ddof 1) is (0.5625² + 0.4375² + 0.0625² + 0.1875²) / 3 = 0.18229."""
    expected = np.array([-0.5625, 0.4375, -0.0625, 0.1875]) / math.sqrt(0.546875 / 3)
    found = run("grpo", GROUP, [2, 1], scale="group", ddof=1, eps=1e-12, rank_unmasked=False)
    assert found == pytest.approx(expected)


def test_gdpo_by_hand() -> None:
    """z1 = (-.5, .5, 0, 0) / sqrt(1/6); z2 = (.4375, -.5625, -.0625, .1875) / sqrt(.546875 / 3)."""
    z1 = np.array([-0.5, 0.5, 0.0, 0.0]) / math.sqrt(1 / 6)
    z2 = np.array([0.4375, -0.5625, -0.0625, 0.1875]) / math.sqrt(0.546875 / 3)
    assert run("gdpo", GROUP, [1, 2], batch_step=False, **Z) == pytest.approx(z1 + 2 * z2)


def test_rvpo_by_hand() -> None:
    """z = (-1, 0, 1) and (1, 0, -1): S = -log cosh(k) / k at both ends and 0 between, times the sum of weights."""
    s = -2 * math.log(math.cosh(0.5)) / 0.5
    found = run("rvpo", [[0, 2], [1, 1], [2, 0]], [1, 1], size=3, sharpness=0.5, batch_step=False, **Z)
    assert found == pytest.approx(np.array([s, 0.0, s]) - 2 * s / 3)


@pytest.mark.parametrize("batch_step", [False, True])
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 7.0])
def test_rvpo_one_caption_at_a_time(sharpness: float, batch_step: bool) -> None:
    rewards = np.random.default_rng(4).integers(0, 13, (24, 3)) / 12
    weights, found = [1.0, 0.5, 2.0], []
    for start in range(0, 24, 8):
        z = [z_scores(rewards[start : start + 8, k].tolist()) for k in range(3)]
        soft = [soft_minimum([z[k][j] for k in range(3)], weights, sharpness) for j in range(8)]
        found += [value - statistics.mean(soft) for value in soft]
    if batch_step:
        found = z_scores(found)
    got = run("rvpo", rewards, weights, 8, sharpness=sharpness, batch_step=batch_step, **Z)
    assert got == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("unknown", [0.0, 0.2])
def test_rvpo_is_gdpo_when_it_is_not_sharp(unknown: float) -> None:
    rng = np.random.default_rng(5)
    rewards = rng.random((40, 3))
    rewards[rng.random(rewards.shape) < unknown] = np.nan
    weights = [1.0, 0.25, 2.0]
    gdpo = run("gdpo", rewards, weights, 8, batch_step=True, **Z)
    away = [
        np.abs(run("rvpo", rewards, weights, 8, sharpness=k, batch_step=True, **Z) - gdpo).max()
        for k in (1.0, 1e-2, 1e-4, 1e-9, 1e-300)
    ]
    assert away[0] > 0.1 and away[1] < 0.05 and away[2] < 5e-4 and max(away[3:]) < 1e-8


@pytest.mark.parametrize("sharpness", [1e3, 1e6, 1e300])
def test_rvpo_is_the_smallest_z_when_it_is_very_sharp(sharpness: float) -> None:
    """Times the sum of the weights, whatever their shares; a reward of weight 0 is none."""
    rewards = np.random.default_rng(6).random((8, 3))
    rewards[:, 2] = -rewards[:, :2].sum(axis=1)
    z = np.column_stack([z_scores(rewards[:, k].tolist()) for k in range(3)])
    for weights, counted in (([1.0, 3.0, 1e-3], [0, 1, 2]), ([1.0, 3.0, 0.0], [0, 1])):
        low = sum(weights) * z[:, counted].min(axis=1)
        found = run("rvpo", rewards, weights, 8, sharpness=sharpness, batch_step=False, **Z)
        assert found == pytest.approx(low - low.mean(), abs=0.05)


def test_rvpo_stays_finite_with_a_weight_of_next_to_nothing() -> None:
    rewards = np.random.default_rng(7).random((8, 2))
    assert np.isfinite(run("rvpo", rewards, [1.0, 1e-30], 8, sharpness=1e6, batch_step=True, **Z)).all()


def test_rvpo_does_not_let_one_reward_buy_another() -> None:
    """Both captions have the same sum of z; the even one wins, and in GDPO they are level."""
    rewards = [[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]
    assert run("gdpo", rewards, [1, 1], 3, batch_step=False, **Z) == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    found = run("rvpo", rewards, [1, 1], 3, sharpness=1.0, batch_step=False, **Z)
    assert found[1] > 0.3 and found[0] == found[2] < 0.0
