"""Advantage rules: worked numbers of the method, and what must hold for any rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.advantages import RULES, make_rule
from balcap.advantages.gdpo import gdpo
from balcap.advantages.grpo import grpo
from balcap.params.train import DrGrpo, Gdpo, Grpo, Rvpo

REWARDS = ("precision", "recall", "linguistic")
SETTINGS: dict[str, dict[str, Any]] = {
    "gdpo": {"ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True, "rank_unmasked": False},
    "gdpo-no-batch": {"ddof": 0, "eps": 1e-6, "std_floor": 0.0, "batch_step": False, "rank_unmasked": False},
    "gdpo-floor": {"ddof": 1, "eps": 1e-4, "std_floor": 0.05, "batch_step": True, "rank_unmasked": False},
    "grpo": {"scale": "group", "ddof": 1, "eps": 1e-4, "rank_unmasked": False},
    "grpo-batch": {"scale": "batch", "ddof": 1, "eps": 1e-4, "rank_unmasked": False},
    "grpo-none": {"scale": "none", "ddof": 1, "eps": 1e-4, "rank_unmasked": False},
    "dr_grpo": {},
    "rvpo": {"sharpness": 0.5, "ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True, "rank_unmasked": False},
    "rvpo-no-batch": {
        "sharpness": 2.0,
        "ddof": 0,
        "eps": 1e-6,
        "std_floor": 0.0,
        "batch_step": False,
        "rank_unmasked": False,
    },
}
SUMS = ("grpo", "grpo-batch", "grpo-none", "dr_grpo")
"""Rules that add the rewards as they are; the others add, or take the minimum of, z-scores."""
ALL = pytest.mark.parametrize("name", SETTINGS)


def run(name: str, rewards: Any, group_size: int, weights: Any = (1.0, 1.0, 1.0)) -> Any:
    rewards = np.asarray(rewards)
    masked = np.zeros(len(rewards), dtype=bool)
    return RULES[name.split("-")[0]](rewards, masked, group_size, np.asarray(weights), None, **SETTINGS[name])


def shares(rng: np.random.Generator, groups: int, size: int, k: int = 3) -> Any:
    """Rewards as they come: shares of a dozen statements, so that ties and constant groups occur."""
    return rng.integers(0, 13, (groups * size, k)) / 12


matrices = st.builds(
    lambda seed, groups, size: (shares(np.random.default_rng(seed), groups, size), size),
    st.integers(0, 10**6),
    st.integers(2, 5),
    st.integers(2, 8),
)


def test_gdpo_keeps_the_difference_that_the_sum_loses() -> None:
    """The toy case of the GDPO paper: two rollouts, two binary rewards."""
    options = {"ddof": 1, "eps": 1e-9, "std_floor": 0.0, "batch_step": False, "rank_unmasked": False}
    none = np.zeros(2, dtype=bool)
    for rewards, by_gdpo in (([[0, 0], [1, 0]], 0.7071), ([[0, 0], [1, 1]], 1.4142)):
        r = np.array(rewards, dtype=float)
        assert gdpo(r, none, 2, np.ones(2), None, **options) == pytest.approx([-by_gdpo, by_gdpo], abs=1e-4)
        by_grpo = grpo(r, none, 2, np.ones(2), None, scale="group", ddof=1, eps=1e-9, rank_unmasked=False)
        assert by_grpo == pytest.approx([-0.7071, 0.7071], abs=1e-4)


@pytest.mark.parametrize(
    ("masked", "low", "high"), [(1, -2.47, 0.35), (2, -1.62, 0.54), (3, -1.21, 0.72), (4, -0.94, 0.94), (8, 0.0, 0.0)]
)
def test_masked_captions_in_a_group_of_eight(masked: int, low: float, high: float) -> None:
    """The table of the method, section 9.4."""
    rewards = np.array([[0.0]] * masked + [[0.8]] * (8 - masked))
    options = {"ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": False, "rank_unmasked": False}
    z = gdpo(rewards, np.zeros(8, dtype=bool), 8, np.ones(1), 0, **options)
    assert z[:masked] == pytest.approx([low] * masked, abs=0.01)
    assert z[masked:] == pytest.approx([high] * (8 - masked), abs=0.01)


@ALL
@given(matrices, st.integers(0, 10**6))
def test_order_within_a_group_is_irrelevant(name: str, matrix: Any, seed: int) -> None:
    rewards, size = matrix
    order = np.arange(len(rewards))
    np.random.default_rng(seed).shuffle(order[:size])
    assert run(name, rewards[order], size) == pytest.approx(run(name, rewards, size)[order], abs=1e-9)


@pytest.mark.parametrize("name", ["gdpo", "gdpo-no-batch", "rvpo", "rvpo-no-batch"])
@given(matrices, st.floats(0.5, 8.0), st.floats(-3.0, 3.0))
def test_rules_of_z_scores_ignore_shift_and_scale_of_a_reward(
    name: str, matrix: Any, scale: float, shift: float
) -> None:
    rewards, size = matrix
    changed = rewards.copy()
    changed[:, 1] = changed[:, 1] * scale + shift
    assert run(name, changed, size) == pytest.approx(run(name, rewards, size), abs=0.02)  # eps is not scaled


@pytest.mark.parametrize("name", ["gdpo-floor", *SUMS])
def test_the_other_rules_do_not(name: str) -> None:
    """A scale is a weight in a sum, and decides which spreads lie below a floor."""
    rewards = shares(np.random.default_rng(1), 4, 8) / 10
    assert np.abs(run(name, rewards * [1.0, 4.0, 1.0], 8) - run(name, rewards, 8)).max() > 0.01


@pytest.mark.parametrize("name", ["gdpo-floor", *SUMS])
@given(matrices, st.floats(-3.0, 3.0))
def test_they_ignore_its_shift(name: str, matrix: Any, shift: float) -> None:
    rewards, size = matrix
    assert run(name, rewards + np.array([0.0, shift, 0.0]), size) == pytest.approx(run(name, rewards, size), abs=1e-9)


@pytest.mark.parametrize("name", SUMS)
@given(matrices, st.floats(0.5, 8.0))
def test_one_scale_for_all_rewards_scales_a_sum_or_nothing(name: str, matrix: Any, scale: float) -> None:
    rewards, size = matrix
    factor = scale if name in ("grpo-none", "dr_grpo") else 1.0
    assert run(name, rewards * scale, size) == pytest.approx(run(name, rewards, size) * factor, abs=0.02)


@ALL
@given(matrices, st.floats(0.0, 1.0))
def test_a_constant_reward_changes_nothing(name: str, matrix: Any, value: float) -> None:
    rewards, size = matrix
    with_constant = np.column_stack([rewards[:, :2], np.full(len(rewards), value)])
    if name.startswith("rvpo"):  # a minimum takes its z = 0 in, whatever its value
        other = np.column_stack([rewards[:, :2], np.full(len(rewards), value + 1.0)])
        assert run(name, with_constant, size) == pytest.approx(run(name, other, size), abs=1e-9)
    else:
        assert run(name, with_constant, size) == pytest.approx(run(name, rewards[:, :2], size, (1.0, 1.0)), abs=1e-9)


@ALL
@given(matrices)
def test_an_unknown_reward_counts_as_its_groups_mean(name: str, matrix: Any) -> None:
    rewards, size = matrix
    unknown, filled = rewards.copy(), rewards.copy()
    unknown[0, 0] = np.nan
    filled[0, 0] = rewards[1:size, 0].mean()
    got, expected = run(name, unknown, size), run(name, filled, size)
    assert np.isfinite(got).all()
    if name in SUMS:  # the other statistics are those of the sum: equal altogether
        assert got == pytest.approx(expected, abs=1e-9)
    else:  # z is 0; the spread of the known values differs from that of the filled ones
        alone = run("gdpo-no-batch", unknown, size, (1.0, 0.0, 0.0))
        assert alone[0] == 0.0


@ALL
@given(matrices)
def test_a_wholly_unknown_caption_gets_nothing_and_moves_nobody(name: str, matrix: Any) -> None:
    rewards, size = matrix
    rewards = np.concatenate([rewards[:size], rewards])
    rewards[0] = np.nan
    got = run(name, rewards, size)
    assert got[0] == 0.0 and np.isfinite(got).all()
    live = got[np.arange(len(got)) != 0]
    if name in ("gdpo", "gdpo-floor", "rvpo") and np.abs(live).max() > 0:
        assert live.mean() == pytest.approx(0.0, abs=1e-9)


@ALL
@given(matrices)
def test_a_reward_unknown_in_its_whole_group_is_neutral(name: str, matrix: Any) -> None:
    rewards, size = matrix
    rewards[:size, 2] = np.nan
    got = run(name, rewards, size)
    assert np.isfinite(got).all()
    if name in ("grpo", "grpo-none", "dr_grpo", "gdpo-no-batch"):
        assert got[:size] == pytest.approx(run(name, rewards[:, :2], size, (1.0, 1.0))[:size], abs=1e-9)


@ALL
@given(st.floats(0.0, 1.0), st.integers(2, 9), st.integers(1, 40))
@settings(max_examples=200)
def test_a_batch_without_differences_has_no_advantages(name: str, value: float, size: int, groups: int) -> None:
    """The float32 corner: TRL's own formula gives up to 0.87 here."""
    rewards = np.full((groups * size, 3), value, dtype=np.float32) * np.float32(1 / 3) * np.float32(3)
    assert not run(name, rewards, size).any()


@ALL
def test_float32_noise_is_no_difference(name: str) -> None:
    noise = np.array([[0.1 + 0.2], [0.3], [np.float32(0.3)], [0.3 - 5e-8]] * 4)
    assert not run(name, noise, 4, [1.0]).any()


@ALL
@given(matrices)
def test_a_dead_group_stays_at_zero_beside_live_ones(name: str, matrix: Any) -> None:
    rewards, size = matrix
    rewards[:size] = rewards[0]
    rewards[size:, 0] += np.linspace(0.0, 0.5, len(rewards) - size)
    got = run(name, rewards, size)
    assert got[:size] == pytest.approx(np.zeros(size), abs=1e-9)


@ALL
@given(matrices)
def test_what_one_group_gains_it_loses(name: str, matrix: Any) -> None:
    """Every group is its own baseline: no picture is pushed up or down as a whole."""
    rewards, size = matrix
    assert run(name, rewards, size).reshape(-1, size).sum(axis=1) == pytest.approx(0.0, abs=1e-6)


@ALL
@given(matrices)
def test_single_precision_changes_no_more_than_rounding(name: str, matrix: Any) -> None:
    rewards, size = matrix
    got = run(name, rewards.astype(np.float32), size)
    assert got.dtype == np.float64 and got == pytest.approx(run(name, rewards, size), abs=1e-4)


@ALL
@given(matrices)
def test_weights_count(name: str, matrix: Any) -> None:
    rewards, size = matrix
    assert run(name, rewards, size, (1.0, 0.0, 0.0)) == pytest.approx(run(name, rewards[:, :1], size, (1.0,)), abs=1e-9)
    if name == "gdpo-no-batch":
        single = [run(name, rewards, size, np.eye(3)[k]) for k in range(3)]
        assert run(name, rewards, size, (3.0, 0.5, 1.0)) == pytest.approx(
            3.0 * single[0] + 0.5 * single[1] + single[2], abs=1e-9
        )


def test_the_floor_stops_noise_from_being_blown_up() -> None:
    noise = np.array([[0.50], [0.51], [0.49], [0.50]])
    options = {"ddof": 1, "eps": 1e-4, "batch_step": False, "rank_unmasked": False}
    masked = np.zeros(4, dtype=bool)
    assert np.abs(gdpo(noise, masked, 4, np.ones(1), None, std_floor=0.0, **options)).max() > 1.0
    assert np.abs(gdpo(noise, masked, 4, np.ones(1), None, std_floor=0.05, **options)).max() < 0.21
    flat = np.full((4, 1), 0.5)
    assert not gdpo(flat, masked, 4, np.ones(1), None, std_floor=0.05, **options).any()


def test_groups_must_be_whole() -> None:
    with pytest.raises(ValueError, match="whole groups of 4"):
        run("gdpo", np.zeros((6, 3)), 4)


def test_make_rule_hands_the_settings_over() -> None:
    rewards = shares(np.random.default_rng(0), 4, 8)
    masked = np.arange(32) % 5 == 0
    for params in (
        Gdpo(name="gdpo", ddof=0, eps=0.01, std_floor=0.1, batch_step=False, rank_unmasked=True),
        Grpo(name="grpo", scale="batch", ddof=0, eps=0.01, rank_unmasked=True),
        DrGrpo(name="dr_grpo"),
        Rvpo(name="rvpo", sharpness=3.0, ddof=0, eps=0.01, std_floor=0.1, batch_step=False, rank_unmasked=True),
    ):
        expected = RULES[params.name](rewards, masked, 8, np.ones(3), 2, **params.model_dump(exclude={"name"}))
        assert (make_rule(params, REWARDS)(rewards, masked, 8, np.ones(3), 2) == expected).all()


@pytest.mark.parametrize("rank_unmasked", [False, True])
def test_a_floor_by_name_acts_on_its_reward_alone(rank_unmasked: bool) -> None:
    """The sum is linear without the batch step: each column can be taken by itself with its own floor."""
    rewards, masked = shares(np.random.default_rng(3), 4, 8) * 0.05, np.arange(32) % 5 == 0
    settings = {"name": "gdpo", "ddof": 1, "eps": 1e-4, "batch_step": False, "rank_unmasked": rank_unmasked}
    floors = {"linguistic": 0.2, "precision": 0.1, "recall": 0.0}
    found = make_rule(Gdpo(std_floor=floors, **settings), REWARDS)(rewards, masked, 8, np.ones(3), 2)  # type: ignore[arg-type]
    single = [
        make_rule(Gdpo(std_floor=floors[name], **settings), REWARDS)(rewards, masked, 8, np.eye(3)[k], 2)  # type: ignore[arg-type]
        for k, name in enumerate(REWARDS)
    ]
    assert found == pytest.approx(sum(single), abs=1e-12)
    unlike = make_rule(Gdpo(std_floor=0.0, **settings), REWARDS)(rewards, masked, 8, np.ones(3), 2)  # type: ignore[arg-type]
    assert np.abs(found - unlike).max() > 0.1
