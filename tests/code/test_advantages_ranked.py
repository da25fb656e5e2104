"""The option ``rank_unmasked``: worked numbers, and what must hold for any rewards and any mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.advantages import RULES
from balcap.advantages.base import ranked

LING = 2
SETTINGS: dict[str, dict[str, Any]] = {
    "gdpo": {"ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True},
    "gdpo-no-batch": {"ddof": 0, "eps": 1e-6, "std_floor": 0.0, "batch_step": False},
    "grpo": {"scale": "group", "ddof": 1, "eps": 1e-4},
    "grpo-batch": {"scale": "batch", "ddof": 1, "eps": 1e-4},
    "grpo-none": {"scale": "none", "ddof": 0, "eps": 1e-4},
    "rvpo": {"sharpness": 1.0, "ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True},
}
ALL = pytest.mark.parametrize("name", SETTINGS)


def run(name: str, rewards: Any, masked: Any, size: int, *, rank: bool = True, linguistic: int | None = LING) -> Any:
    rule, weights = RULES[name.split("-")[0]], np.array([1.0, 0.5, 2.0])[: np.shape(rewards)[1]]
    return rule(
        np.asarray(rewards), np.asarray(masked), size, weights, linguistic, rank_unmasked=rank, **SETTINGS[name]
    )


def draw(seed: int, groups: int, size: int, share: float, unknown: float = 0.0) -> tuple[Any, Any, int]:
    """Rewards in steps of 1/12 with a masked share whose linguistic reward is 0, and an unknown share of the others."""
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 13, (groups * size, 3)) / 12
    masked = rng.random(groups * size) < share
    rewards[rng.random(rewards.shape) < unknown] = np.nan
    rewards[masked, LING] = 0.0
    return rewards, masked, size


def cases(unknown: float = 0.0) -> st.SearchStrategy[Any]:
    return st.builds(
        draw, st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 8), st.floats(0.0, 0.9), st.just(unknown)
    )


def test_worked_numbers() -> None:
    """Three open captions with L = 1, .75, .5 (spread .25: z = 1, 0, -1) and one masked at -1; their mean is -1/4."""
    column, masked = np.array([[1.0, 0.75, 0.5, 0.0]]), np.array([[False, False, False, True]])
    assert ranked(column, masked, ddof=1, eps=1e-12)[0] == pytest.approx([1.25, 0.25, -0.75, -0.75])
    rewards = np.column_stack([np.zeros((4, 2)), column[0]])
    z = RULES["gdpo"](
        rewards, masked[0], 4, np.ones(3), LING, ddof=1, eps=1e-12, std_floor=0.0, batch_step=False, rank_unmasked=True
    )
    assert z == pytest.approx([1.25, 0.25, -0.75, -0.75])
    summed = RULES["grpo"](rewards, masked[0], 4, np.ones(3), LING, scale="none", ddof=1, eps=1e-12, rank_unmasked=True)
    assert summed == pytest.approx(np.std(column, ddof=1) * z)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_masked_captions_no_longer_erase_the_ranking(count: int) -> None:
    """The table of the method, section 9.4, with open captions that differ: their spread stays one."""
    column = np.array([[0.0] * count + np.linspace(0.7, 0.9, 8 - count).tolist()])
    masked = np.arange(8)[None] < count
    before, after = (ranked(column, closed, 1, 1e-4)[0, count:] for closed in (np.zeros_like(masked), masked))
    assert np.std(after, ddof=1) == pytest.approx(1.0, abs=0.01)
    assert np.std(before, ddof=1) < 0.3


def test_equal_open_captions_still_stand_above_a_masked_one() -> None:
    z = ranked(np.array([[0.0] + [0.8] * 7]), np.arange(8)[None] < 1, 1, 1e-4)[0]
    assert z == pytest.approx([-7 / 8] + [1 / 8] * 7)


def test_the_floor_holds_among_open_captions_too() -> None:
    column, masked = np.array([[0.0, 0.80, 0.81, 0.82]]), np.arange(4)[None] < 1
    spread = [np.ptp(ranked(column, masked, 1, 1e-4, floor)[0, 1:]) for floor in (0.0, 0.05)]
    assert spread == pytest.approx([2.0, 0.4], abs=0.02)


@ALL
@given(cases(), st.integers(0, 10**6))
def test_order_within_a_group_is_irrelevant(name: str, case: Any, seed: int) -> None:
    rewards, masked, size = case
    order = np.arange(len(rewards))
    np.random.default_rng(seed).shuffle(order[:size])
    expected = run(name, rewards, masked, size)[order]
    assert run(name, rewards[order], masked[order], size) == pytest.approx(expected, abs=1e-9)


@ALL
@given(cases(), st.floats(0.5, 8.0), st.floats(-3.0, 3.0))
def test_an_affine_change_of_another_reward_touches_nothing_of_it(
    name: str, case: Any, scale: float, shift: float
) -> None:
    """GDPO divides by every reward's own spread; in GRPO's sum a shift is nothing, a scale is a weight."""
    rewards, masked, size = case
    changed = rewards.copy()
    changed[:, 0] = changed[:, 0] * (1.0 if name.startswith("grpo") else scale) + shift
    assert run(name, changed, masked, size) == pytest.approx(
        run(name, rewards, masked, size), abs=0.05
    )  # eps is not scaled


@given(cases(), st.floats(0.25, 4.0), st.floats(0.0, 2.0))
def test_the_value_of_masked_captions_and_the_scale_of_open_ones_are_irrelevant_in_gdpo(
    case: Any, scale: float, shift: float
) -> None:
    rewards, masked, size = case
    rule = {"ddof": 1, "eps": 1e-9, "std_floor": 0.0, "batch_step": False}
    changed = rewards.copy()
    changed[~masked, LING] = changed[~masked, LING] * scale + shift
    one, two = (
        RULES["gdpo"](r[:, LING:], masked, size, np.ones(1), 0, rank_unmasked=True, **rule)[
            np.repeat(masked.reshape(-1, size).any(axis=1), size)
        ]
        for r in (rewards, changed)
    )
    assert one == pytest.approx(two, abs=1e-5)


@ALL
@given(cases())
def test_where_all_are_masked_the_channel_is_silent(name: str, case: Any) -> None:
    rewards, _, size = case
    rewards[:size, LING] = 0.0
    masked = np.arange(len(rewards)) < size
    assert (run(name, rewards, masked, size) == run(name, rewards, masked, size, rank=False)).all()
    assert not ranked(rewards[None, :size, LING], masked[None, :size], 1, 1e-4).any()


@ALL
@given(cases(unknown=0.2))
def test_without_a_mask_or_a_linguistic_reward_it_changes_nothing(name: str, case: Any) -> None:
    rewards, masked, size = case
    none = np.zeros_like(masked)
    assert np.array_equal(run(name, rewards, none, size), run(name, rewards, none, size, rank=False))
    two = rewards[:, :2]
    assert np.array_equal(
        run(name, two, masked, size, linguistic=None), run(name, two, masked, size, rank=False, linguistic=None)
    )


@ALL
@given(cases(unknown=0.3))
def test_unknown_values_are_neutral_and_dead_rows_get_nothing(name: str, case: Any) -> None:
    rewards, masked, size = case
    rewards[0], masked[0] = np.nan, False
    got = run(name, rewards, masked, size)
    assert np.isfinite(got).all() and got[0] == 0.0
    alone = run("gdpo-no-batch", rewards[:, LING:], masked, size, linguistic=0)
    assert not alone[np.isnan(rewards[:, LING])].any()
    assert alone.reshape(-1, size).sum(axis=1) == pytest.approx(np.zeros(len(alone) // size), abs=1e-9)


@given(cases())
def test_an_unknown_linguistic_reward_is_its_groups_mean(case: Any) -> None:
    """The other captions' z do not change when one of them is joined by an unknown one."""
    rewards, masked, size = case
    column, closed = rewards[:size, LING], masked[:size]
    more = ranked(np.append(column, np.nan)[None], np.append(closed, False)[None], 1, 1e-4)[0]
    assert np.isnan(more[-1]) and more[:-1] == pytest.approx(ranked(column[None], closed[None], 1, 1e-4)[0])


@ALL
@given(cases())
def test_single_precision_changes_no_more_than_rounding(name: str, case: Any) -> None:
    rewards, masked, size = case
    got = run(name, rewards.astype(np.float32), masked, size)
    assert got.dtype == np.float64
    assert got == pytest.approx(run(name, rewards, masked, size), abs=1e-4)


@given(st.floats(0.1, 1.0), st.integers(2, 9), st.data())
def test_float32_noise_among_open_captions_is_no_ranking(value: float, size: int, data: Any) -> None:
    masked = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    column = np.where(masked, 0.0, value * np.float32(1 / 3) * 3 + np.arange(size) * 1e-8)
    z = ranked(column[None], masked[None], 1, 1e-4)[0]
    assert np.ptp(z[~masked], axis=0) == 0.0 if (~masked).any() else True


@ALL
def test_the_rewards_given_stay_as_they_are(name: str) -> None:
    rewards, masked, size = draw(3, 4, 8, 0.3)
    before = rewards.copy()
    run(name, rewards, masked, size)
    assert (rewards == before).all()


def test_the_linguistic_reward_keeps_about_its_weight_in_the_sum() -> None:
    rewards, masked, size = draw(5, 500, 8, 0.3)
    only = np.zeros_like(rewards)
    only[:, LING] = rewards[:, LING]
    spread = [np.std(run("grpo-none", only, masked, size, rank=rank)) for rank in (True, False)]
    assert spread[0] / spread[1] == pytest.approx(1.0, abs=0.15)
