"""The length mask at its borders, both ends inclusive, the linear baseline, and the soft channel."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.params.train import LengthMask
from balcap.records import Caption, Reference
from balcap.rewards.length import apply, factor, masked, ratio, words

LCRM = LengthMask(name="lcrm", tau_low=0.5, tau_high=2.0, softness=None)
LINEAR = LengthMask(name="linear", tau_low=0.5, tau_high=2.0, softness=None)
NONE = LengthMask(name="none", tau_low=0.5, tau_high=2.0, softness=None)
SOFT = LengthMask(name="soft", tau_low=0.5, tau_high=2.0, softness=math.log(2.0))


def text(n: int) -> str:
    return " ".join(["word"] * n)


def reference(n: int) -> Reference:
    return Reference("id", text(n), ("a unit",), "w", "")


def test_a_word_is_what_stands_between_white_space() -> None:
    assert words("A red  circle,\n sits\tat the top-left.") == 7
    assert words(" \n ") == 0


@pytest.mark.parametrize(("n", "closed"), [(0, True), (94, True), (95, False), (190, False), (380, False), (381, True)])
def test_borders_are_inclusive(n: int, closed: bool) -> None:
    """The method's example: a reference of 190 words gives full credit between 95 and 380."""
    assert masked(Caption(text(n)), reference(190), LCRM) is closed
    assert apply(0.75, Caption(text(n)), reference(190), LCRM) == (0.0 if closed else 0.75)


@pytest.mark.parametrize("n", [9, 41])
def test_outside_the_reward_is_known_even_when_the_judge_failed(n: int) -> None:
    assert apply(math.nan, Caption(text(n)), reference(20), LCRM) == 0.0


@pytest.mark.parametrize("n", [10, 20, 40])
def test_inside_an_unknown_reward_stays_unknown(n: int) -> None:
    assert math.isnan(apply(math.nan, Caption(text(n)), reference(20), LCRM))


@given(st.integers(0, 60), st.integers(1, 20), st.floats(0, 1))
def test_linear_is_a_tent_around_equal_length(n: int, m: int, reward: float) -> None:
    value = apply(reward, Caption(text(n)), reference(m), LINEAR)
    assert value == pytest.approx(reward * max(0.0, 1.0 - abs(n / m - 1.0)), abs=1e-12)
    assert 0.0 <= value <= reward
    assert masked(Caption(text(n)), reference(m), LINEAR) is (n == 0 or n >= 2 * m)


@given(st.integers(0, 60), st.integers(1, 20), st.floats(0, 1))
def test_none_changes_nothing(n: int, m: int, reward: float) -> None:
    assert apply(reward, Caption(text(n)), reference(m), NONE) == reward
    assert not masked(Caption(text(n)), reference(m), NONE)


def test_a_reference_without_words_leaves_the_ratio_unknown() -> None:
    assert math.isnan(ratio(Caption("a word"), reference(0)))
    assert math.isnan(factor(math.nan, LCRM)) and factor(math.nan, NONE) == 1.0
    assert math.isnan(apply(1.0, Caption("a word"), reference(0), LCRM))
    assert apply(0.0, Caption(""), reference(0), LCRM) == 0.0


@pytest.mark.parametrize(
    ("n", "value"), [(10, 1.0), (20, 1.0), (40, 1.0), (80, 0.5), (5, 0.5), (160, 0.2), (320, 0.1), (0, 0.0)]
)
def test_soft_by_hand(n: int, value: float) -> None:
    """Softness ln 2: each further halving or doubling beyond the interval is one step of 1 / (1 + steps squared)."""
    assert factor(n / 20, SOFT) == pytest.approx(value, abs=1e-12)
    assert apply(0.5, Caption(text(n)), reference(20), SOFT) == pytest.approx(0.5 * value)


masks = st.builds(
    lambda low, width, softness: LengthMask(name="soft", tau_low=low, tau_high=low + width, softness=softness),
    st.floats(0.0, 2.0),
    st.floats(0.01, 5.0),
    st.floats(0.01, 10.0),
)


@given(masks, st.integers(1, 10_000), st.integers(1, 10_000))
def test_soft_never_closes_and_is_whole_inside(mask: LengthMask, n: int, m: int) -> None:
    rho = n / m
    value = factor(rho, mask)
    assert 0.0 < value <= 1.0
    assert (value == 1.0) is (mask.tau_low <= rho <= mask.tau_high) or value > 1 - 1e-9
    assert not masked(Caption(text(n)), reference(m), mask)
    assert math.isnan(apply(math.nan, Caption(text(n)), reference(m), mask))


@given(masks, st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=2))
def test_soft_rises_towards_the_interval_and_has_no_edge(mask: LengthMask, pair: list[float]) -> None:
    low, high = sorted(pair)
    if low > mask.tau_high:
        assert factor(low, mask) >= factor(high, mask)
    if high < mask.tau_low:
        assert factor(low, mask) <= factor(high, mask)
    step = 1e-3 * (mask.softness or 1.0)
    for edge in (mask.tau_low, mask.tau_high):
        for near in (edge * math.exp(step), edge * math.exp(-step)):
            assert edge == 0.0 or factor(near, mask) > 1.0 - 2e-6  # value and slope are those of the inside


@given(st.floats(1.01, 1e3), st.floats(0.05, 5.0))
def test_soft_is_even_on_the_log_scale(times: float, softness: float) -> None:
    mask = LengthMask(name="soft", tau_low=0.5, tau_high=2.0, softness=softness)
    assert factor(0.5 / times, mask) == pytest.approx(factor(2.0 * times, mask))


def test_far_outside_a_group_still_differs() -> None:
    """Captions of six to ten times the interval's end: differences that an advantage rule sees (1e-6 is its least)."""
    values = [
        factor(2.0 * times, LengthMask(name="soft", tau_low=0.5, tau_high=2.0, softness=0.25)) for times in (6, 10)
    ]
    assert values[0] - values[1] > 1e-3


def test_soft_closes_for_nobody_not_even_an_empty_caption() -> None:
    assert not masked(Caption(""), reference(20), SOFT) and apply(0.0, Caption(""), reference(20), SOFT) == 0.0
    assert math.isnan(factor(math.nan, SOFT))


@pytest.mark.parametrize(("name", "softness"), [("soft", None), ("lcrm", 0.5), ("none", 0.5), ("linear", 0.5)])
def test_softness_belongs_to_soft(name: Any, softness: float | None) -> None:
    with pytest.raises(ValueError, match="softness must be a number with name soft, and null"):
        LengthMask(name=name, tau_low=0.5, tau_high=2.0, softness=softness)


@pytest.mark.parametrize("softness", [0.0, -1.0, math.inf, math.nan, 0.001, 11.0])
def test_softness_is_a_distance(softness: float) -> None:
    with pytest.raises(ValueError, match="softness"):
        LengthMask(name="soft", tau_low=0.5, tau_high=2.0, softness=softness)
