"""Rewards: the worked example of the method, and the line between "known, and worst" and "unknown"."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.params.train import LengthMask
from balcap.records import MARKS, Assertion, Caption, Judgement, Reference
from balcap.rewards import REWARDS, bind, names, score

REFERENCE = Reference("id", "a red car is parked by a fence", ("a car is red", "a car is parked", "a fence"), "w", "")
TEXT = Caption("A red car is parked by a fence. The soft light adds depth.")
FULL = Judgement(
    assertions=(
        Assertion("the car is red", True, True),
        Assertion("parked by a fence", True, True),
        Assertion("the soft light adds depth", True, False),
    ),
    covered=(True, True, False),
    clarity=5,
    fluency=4,
    coherency=3,
)
THREE = ("precision", "recall", "linguistic")
OPEN = LengthMask(name="none", tau_low=0.5, tau_high=2.0, softness=None)


def one(name: str, judgement: Judgement, caption: Caption = TEXT, reference: Reference = REFERENCE) -> float:
    return REWARDS[name](judgement, caption, reference)


def test_worked_example() -> None:
    assert one("precision", FULL) == pytest.approx(2 / 3)
    assert one("recall", FULL) == pytest.approx(2 / 3)
    assert one("linguistic", FULL) == pytest.approx((1.0 + 0.75 + 0.5) / 3)


def test_without_pointability_truth_is_enough() -> None:
    truth = bind(MARKS, pointable=False)["precision"]
    assert truth(FULL, TEXT, REFERENCE) == 1.0  # the light that adds depth counts
    assert bind(MARKS)["precision"](FULL, TEXT, REFERENCE) == pytest.approx(2 / 3), "the paper's form is the default"
    lie = Judgement(assertions=(Assertion("a", False, True), Assertion("b", False, False), Assertion("c", True, False)))
    assert truth(lie, TEXT, REFERENCE) == pytest.approx(1 / 3)
    assert truth.needs == {"assertions"} and truth(Judgement(assertions=()), TEXT, REFERENCE) == 0.0
    assert math.isnan(truth(Judgement(), TEXT, REFERENCE)) and truth(Judgement(), Caption(""), REFERENCE) == 0.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=9))
def test_pointability_only_ever_takes_away(verdicts: list[tuple[bool, bool]]) -> None:
    judgement = Judgement(assertions=tuple(Assertion("a", *verdict) for verdict in verdicts))
    strict, loose = (bind(MARKS, on)["precision"](judgement, TEXT, REFERENCE) for on in (True, False))
    assert strict <= loose == pytest.approx(sum(verified for verified, _ in verdicts) / len(verdicts))


@pytest.mark.parametrize("caption", [Caption(""), Caption(" \n"), Caption("A red car.", truncated=True)])
@pytest.mark.parametrize("judgement", [FULL, Judgement()])
@pytest.mark.parametrize("name", list(REWARDS))
def test_empty_or_truncated_is_a_known_zero(name: str, judgement: Judgement, caption: Caption) -> None:
    assert one(name, judgement, caption) == 0.0
    assert one(name, judgement, caption, Reference("id", "", (), "w", "")) == 0.0


def test_no_assertions_is_zero_in_precision_only() -> None:
    judgement = Judgement(assertions=(), covered=(True, True, True), clarity=5, fluency=5, coherency=5)
    assert [one(name, judgement) for name in ("precision", "recall", "linguistic")] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("name", [name for name, reward in REWARDS.items() if reward.needs])
def test_missing_evidence_is_unknown(name: str) -> None:
    assert math.isnan(one(name, Judgement()))


def test_a_reference_without_units_leaves_recall_unknown() -> None:
    assert math.isnan(one("recall", Judgement(covered=()), reference=Reference("id", "a car", (), "w", "")))
    assert math.isnan(one("recall", Judgement(covered=(True,))))  # judged against other units


@given(st.sets(st.sampled_from(MARKS), min_size=1), st.tuples(*[st.integers(1, 5)] * 3))
def test_linguistic_is_the_mean_of_the_declared_marks(fills: set[str], values: tuple[int, int, int]) -> None:
    marks = dict(zip(MARKS, values, strict=True))
    reward = bind(fills)["linguistic"]
    assert reward.needs == fills
    expected = np.mean([(marks[name] - 1) / 4 for name in fills])
    assert reward(Judgement(**marks), TEXT, REFERENCE) == pytest.approx(expected)
    # marks that the judge does not declare are not needed; one that it declares and failed to give leaves it unknown
    assert reward(Judgement(**{k: v for k, v in marks.items() if k in fills}), TEXT, REFERENCE) == pytest.approx(
        expected
    )
    failed = {k: v for k, v in marks.items() if k != min(fills)}
    assert math.isnan(reward(Judgement(**failed), TEXT, REFERENCE))


def test_a_judge_without_marks_leaves_linguistic_unknown() -> None:
    assert math.isnan(bind({"assertions"})["linguistic"](FULL, TEXT, REFERENCE))
    assert bind({"assertions"})["linguistic"](FULL, Caption(""), REFERENCE) == 0.0
    assert bind({"assertions"})["linguistic"].needs == set(MARKS), "training refuses such a judge"


def test_score_has_a_column_per_named_reward_in_a_fixed_order() -> None:
    weights = {"recall": 2.0, "precision": 0.0}
    rewards, masked = score([FULL, Judgement()], [TEXT, TEXT], REFERENCE, (), weights, MARKS, OPEN, pointable=True)
    assert names(weights) == ("precision", "recall")
    assert rewards.dtype == np.float64 and rewards.shape == (2, 2)
    assert rewards[0].tolist() == [pytest.approx(2 / 3), pytest.approx(2 / 3)]  # weights are not applied
    assert np.isnan(rewards[1]).all()
    assert masked.tolist() == [False, False]


def test_score_hands_the_switch_of_precision_on() -> None:
    columns = {
        on: score([FULL], [TEXT], REFERENCE, (), {"precision": 1.0}, MARKS, OPEN, on)[0][0] for on in (True, False)
    }
    assert columns == {True: [pytest.approx(2 / 3)], False: [1.0]}


def test_the_mask_acts_on_the_linguistic_column_only() -> None:
    lcrm = LengthMask(name="lcrm", tau_low=0.5, tau_high=2.0, softness=None)
    long = Caption("word " * 17)
    rewards, masked = score(
        [FULL, Judgement()], [long, long], REFERENCE, (), dict.fromkeys(THREE, 1.0), {"clarity"}, lcrm
    )
    assert masked.all()
    assert rewards[0].tolist() == [pytest.approx(2 / 3), pytest.approx(2 / 3), 0.0]
    assert np.isnan(rewards[1, :2]).all() and rewards[1, 2] == 0.0  # the gate needs no judge
