"""Intervals: coverage by simulation, pairing, unknown values, the corner of the harmonic mean."""

from __future__ import annotations

import math
from statistics import harmonic_mean as exact

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.evaluation.cases import COLUMNS
from balcap.evaluation.rewards import harmonic_mean
from balcap.evaluation.stats import METRICS, UNKNOWN, Score, compare

Columns = dict[str, np.ndarray]


def columns(n: int, seed: int) -> Columns:
    rng = np.random.default_rng(seed)
    return {name: rng.beta(2, 3, n) for name in COLUMNS}


def run(base: Columns, policy: Columns, draws: int = 400, seed: int = 0) -> dict[str, dict[str, Score]]:
    return compare(base, policy, draws=draws, confidence=0.95, seed=seed)


def test_values_are_the_corpus_scores() -> None:
    base, policy = columns(50, 1), columns(50, 2)
    got = run(base, policy)
    for name in COLUMNS:
        assert got["base"][name].value == pytest.approx(base[name].mean(), abs=1e-12)
        assert got["difference"][name].value == pytest.approx(policy[name].mean() - base[name].mean(), abs=1e-12)
    means = [float(policy[name].mean()) for name in ("precision", "recall", "linguistic")]
    assert got["policy"]["b_capscore"].value == pytest.approx(exact(means), abs=1e-12)
    assert all(score.n == 50 and score.low < score.value < score.high for score in got["policy"].values())


def test_a_model_against_itself_differs_by_exactly_nothing() -> None:
    same = columns(40, 3)
    same["recall"][7] = math.nan
    got = run(same, {name: column.copy() for name, column in same.items()})
    for score in got["difference"].values():
        assert (score.value, score.low, score.high) == (0.0, 0.0, 0.0)


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    base, policy = columns(40, 4), columns(40, 5)
    assert run(base, policy) == run(base, policy)
    assert run(base, policy)["base"]["recall"].low != run(base, policy, seed=1)["base"]["recall"].low


def test_unknown_is_left_out_and_counted() -> None:
    base, policy = columns(30, 6), columns(30, 7)
    base["qa_accuracy"][:5] = math.nan
    policy["qa_accuracy"][3:9] = math.nan
    policy["linguistic"][0] = math.nan
    got = run(base, policy)
    assert (got["base"]["qa_accuracy"].n, got["policy"]["qa_accuracy"].n) == (25, 24)
    change = got["difference"]["qa_accuracy"]
    assert change.n == 21
    assert change.value == pytest.approx((policy["qa_accuracy"] - base["qa_accuracy"])[9:].mean(), abs=1e-12)
    assert (got["policy"]["b_capscore"].n, got["base"]["b_capscore"].n) == (29, 30)
    means = [float(policy[name][1:].mean()) for name in ("precision", "recall", "linguistic")]
    assert got["policy"]["b_capscore"].value == pytest.approx(exact(means), abs=1e-12)


def test_what_nobody_knows_has_no_value_and_n_zero() -> None:
    base, policy = columns(10, 8), columns(10, 9)
    policy["arena"][:] = math.nan
    got = run(base, policy)
    assert got["policy"]["arena"] == got["difference"]["arena"] == UNKNOWN == Score(None, None, None, 0)
    assert got["base"]["arena"].n == 10


def test_a_score_known_for_one_picture_only() -> None:
    base, policy = columns(10, 8), columns(10, 9)
    policy["arena"][1:] = math.nan
    score = run(base, policy)["policy"]["arena"]
    assert score.n == 1 and score.value == score.low == score.high == pytest.approx(policy["arena"][0])


@pytest.mark.parametrize("part", range(3))
def test_harmonic_mean_is_zero_if_a_mean_is(part: int) -> None:
    means = np.full((1, 3), 0.5)
    means[0, part] = 0.0
    assert harmonic_mean(means)[0] == 0.0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=3))
def test_harmonic_mean_is_the_textbooks(means: list[float]) -> None:
    assert harmonic_mean(np.array([means]))[0] == pytest.approx(exact(means))


def test_harmonic_mean_does_not_turn_unknown_into_zero() -> None:
    assert np.isnan(harmonic_mean(np.array([[0.5, math.nan, 0.5]]))[0])


def test_intervals_cover_the_truth() -> None:
    """Nominal 95 % intervals of the paired b-CapScore difference, 200 simulated evaluations of 60 pictures."""
    rng = np.random.default_rng(0)
    base_shape, policy_shape = ((2, 3), (1.2, 3.6), (4, 0.8)), ((6, 1), (3, 1.3), (20, 0.4))
    truth = exact([a / (a + b) for a, b in policy_shape]) - exact([a / (a + b) for a, b in base_shape])
    hits = 0
    for _ in range(200):
        base, policy = columns(60, 0), columns(60, 0)
        for name, one, two in zip(METRICS["b_capscore"], base_shape, policy_shape, strict=True):
            base[name], policy[name] = rng.beta(*one, 60), rng.beta(*two, 60)
        score = run(base, policy)["difference"]["b_capscore"]
        assert score.low is not None and score.high is not None
        hits += score.low <= truth <= score.high
    assert 0.90 <= hits / 200 <= 0.99


def test_pairing_makes_the_difference_sharper_than_the_scores() -> None:
    rng = np.random.default_rng(1)
    base = columns(80, 10)
    policy = {name: np.clip(column + 0.1 + rng.normal(0, 0.02, 80), 0, 1) for name, column in base.items()}
    got = run(base, policy)
    change, score = got["difference"]["precision"], got["base"]["precision"]
    assert change.high - change.low < (score.high - score.low) / 4  # type: ignore[operator]
