"""The length mask at its borders, both ends inclusive, and the linear baseline."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.params.train import LengthMask
from balcap.records import Caption, Reference
from balcap.rewards.length import apply, factor, masked, ratio, words

LCRM = LengthMask(name="lcrm", tau_low=0.5, tau_high=2.0)
LINEAR = LengthMask(name="linear", tau_low=0.5, tau_high=2.0)
NONE = LengthMask(name="none", tau_low=0.5, tau_high=2.0)


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
