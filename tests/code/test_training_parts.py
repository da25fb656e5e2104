"""The parts around the trainer: clock, data, judging, metrics, configuration, summary."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import train_world as world
from hypothesis import given
from hypothesis import strategies as st

from balcap.llm import background
from balcap.params.train import AlarmName
from balcap.records import Caption, Judgement, Picture
from balcap.rewards import REWARDS
from balcap.training.alarms import COLUMNS
from balcap.training.callbacks import TRL_LOGS
from balcap.training.clock import Clock
from balcap.training.config import grpo_config, steps_per_generation
from balcap.training.data import TrainingError, dataset, picture_order, with_reference
from balcap.training.judging import Group, Judging
from balcap.training.metrics import (
    ENTROPY,
    IMPORTANCE,
    TIMES,
    batch_metrics,
    correlation,
    importance_metrics,
    metric_names,
    reward_metrics,
)
from balcap.training.outputs import summary, write_curves, write_samples

CAPTIONS = [Caption("A red stripe is here."), Caption("Down"), Caption("", truncated=True), Caption("very up")]


def groups(n: int = 2) -> list[Group]:
    samples, references = world.data()
    return [Group(Picture(s, references[s.image_id]), list(CAPTIONS)) for s in samples[:n]]


def test_clock_phases_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    now[0] = 1.0
    with clock("update"):
        now[0] = 3.0
        with clock("generate"):
            now[0] = 7.0
        now[0] = 8.0
    with clock("generate"):
        now[0] = 8.5
    assert clock.take() == {"update": 3.0, "generate": 4.5, "step": 8.5}
    now[0] = 9.0
    assert clock.take() == {"step": 0.5}


@given(st.integers(1, 9), st.integers(1, 60), st.integers(0, 99))
def test_every_picture_is_used_once_before_any_is_used_twice(pictures: int, needed: int, seed: int) -> None:
    order = picture_order(pictures, needed, seed)
    assert len(order) == needed and order == picture_order(pictures, needed, seed)
    for start in range(0, needed, pictures):
        part = order[start : start + pictures]
        assert len(set(part)) == len(part) and set(part) <= set(range(pictures))


def test_rows_carry_prompt_picture_and_identity() -> None:
    samples, _ = world.data()
    rows = dataset(samples, [{"role": "user", "content": "describe"}], per_step=2, steps=3, seed=0)
    assert len(rows) == 6
    row = rows[0]
    assert row["image"].mode == "RGB" and row["image"].size == (32, 32)
    assert row["prompt"] == [{"role": "user", "content": "describe"}]
    assert row["image_id"] in {s.image_id for s in samples}


def test_pictures_without_reference_are_left_out_and_none_at_all_is_an_error() -> None:
    samples, references = world.data()
    del references[samples[0].image_id]
    left = with_reference(samples, references, {}, 1, "training")
    assert len(left) == len(samples) - 1 and (ids := [p.sample.image_id for p in left]) == sorted(ids)
    with pytest.raises(TrainingError, match="0 of 9 training pictures have a reference"):
        with_reference(samples, {}, {}, 1, "training")


def test_one_judgement_per_caption_serves_all_rewards() -> None:
    judge = world.CountingJudge()
    judging = Judging(judge, world.settings())
    judging.dispatch(groups(3))
    scored = judging.collect()
    judging.close()
    assert [n for _, n in judge.groups] == [4, 4, 4]
    assert [s.rewards.shape for s in scored] == [(4, 3)] * 3
    assert [s.text.shape for s in scored] == [(4, 3)] * 3 and not scored[0].text.any()
    assert scored[0].rewards[0].tolist() == [1.0, 1.0, 1.0]
    assert scored[0].rewards[2].tolist() == [0.0, 0.0, 0.0]  # truncated
    assert scored[0].masked.tolist() == [False, True, True, True]
    assert judging.parts == ["assertions", "clarity", "covered"]
    assert sum(s.unknown.sum() for s in scored) == 0 and scored[0].needed.tolist() == [3, 3, 0, 3]


def test_precision_in_training_follows_the_switch() -> None:
    def vague(judged: list[Judgement]) -> list[Judgement]:
        return [replace(j, assertions=tuple(replace(a, pointable=False) for a in j.assertions or ())) for j in judged]

    found = {}
    for pointable in (True, False):
        judging = Judging(world.CountingJudge(vague), world.settings(pointable=pointable))
        judging.dispatch(groups(1))
        found[pointable] = judging.collect()[0].rewards[0, 0]
        judging.close()
    assert found == {True: 0.0, False: 1.0}


class Stubborn(world.CountingJudge):
    """Fails for the second picture in one of the ways judges fail."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    async def judge_group(self, *args: Any, **kwargs: Any) -> list[Judgement]:
        second = len(self.groups) == 1
        judged = await super().judge_group(*args, **kwargs)
        if second:
            if self.how == "raises":
                raise ConnectionError("the judge is away")
            if self.how == "hangs":
                await asyncio.sleep(60)
            if self.how == "blocks":
                time.sleep(4)
            if self.how == "short":
                return judged[1:]
        return judged


@pytest.mark.parametrize(
    ("how", "reason"),
    [("raises", "ConnectionError"), ("hangs", "deadline"), ("short", "wrong number of judgements")],
)
def test_a_failing_judge_leaves_its_group_unknown_and_others_alone(how: str, reason: str) -> None:
    judging = Judging(Stubborn(how), world.settings(judge_deadline=2.0))
    judging.dispatch(groups(3))
    scored = judging.collect()
    judging.close()
    assert np.isfinite(scored[0].rewards).all() and np.isfinite(scored[2].rewards).all()
    broken = scored[1].rewards
    assert np.isnan(broken[0]).all()  # a caption of fitting length: nothing is known
    assert np.isnan(broken[1, :2]).all() and broken[1, 2] == 0.0  # masked: the gate needs no judge
    assert broken[2].tolist() == [0.0, 0.0, 0.0]  # truncated: known, and worst
    assert scored[1].unknown.tolist() == [3, 3, 0, 3]
    assert judging.guard.why() == f"{reason}: 1"


def test_a_judge_that_blocks_the_loop_does_not_hang_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "GRACE", 0.2)
    judging = Judging(Stubborn("blocks"), world.settings(judge_deadline=0.2))
    start = time.monotonic()
    judging.dispatch(groups(3))
    scored = judging.collect()
    assert time.monotonic() - start < 3.5  # the judge blocks for 4
    assert all(np.isnan(s.rewards[0]).all() for s in scored) and judging.guard.why() == "blocked: 3"
    judging.close()


def test_metrics_of_a_batch_by_hand() -> None:
    rewards = np.array([[0.0, 0.5], [1.0, 0.5], [0.25, np.nan], [0.75, np.nan]])
    found = batch_metrics(
        ["precision", "recall"],
        rewards,
        masked=np.array([True, False, False, False]),
        words=np.array([2.0, 4.0, 6.0, 8.0]),
        ratio=np.array([0.5, 1.0, np.nan, 1.5]),
        text=np.array([[50.0, 0.0, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0], [0.0, 0.0, 10.0]]),
        quality=np.array([[0.0, 1.0, 0.5, np.nan], [1.0, 0.0, np.nan, np.nan]] * 2),
        failure_rate=0.25,
        advantages=np.array([1.0, -1.0, 1.0, -1.0]),
        group_size=2,
    )
    assert [*found, *IMPORTANCE, ENTROPY] == metric_names(["precision", "recall"])
    assert math.isnan(found["correlation/precision-recall"])  # recall does not differ inside a group
    assert found["reward/precision/mean"] == 0.5
    assert found["reward/precision/std"] == pytest.approx(np.std(rewards[:, 0], ddof=1))
    assert found["reward/precision/group_std"] == pytest.approx((math.sqrt(0.5) + math.sqrt(0.125)) / 2)
    assert found["reward/precision/dead"] == 0.0 and found["reward/recall/dead"] == 1.0
    assert found["reward/recall/mean"] == 0.5 and found["reward/recall/unknown"] == 0.5
    assert (found["length/words"], found["length/ratio"], found["length/masked"]) == (5.0, 1.0, 0.25)
    assert [found[f"text/{name}"] for name in ("repetition", "hedging", "self_praise")] == [12.5, 0.0, 5.0]
    assert [found[f"quality/{name}"] for name in ("precision", "recall", "linguistic")] == [0.5, 0.5, 0.5]
    assert math.isnan(found["quality/utility"])
    assert found["judge/failure_rate"] == 0.25 and found["advantage/std"] == 1.0


def test_quality_is_measured_alike_whatever_is_rewarded() -> None:
    """Another mask, no pointability, fewer rewards: the same captions have the same quality."""
    found = []
    for settings in (
        {},
        {"pointable": False, "length_mask": {"name": "linear", "tau_low": 0.5, "tau_high": 2.0, "softness": None}},
        {"reward_weights": {"recall": 1.0}},
    ):
        judging = Judging(world.CountingJudge(), world.settings(**settings))
        judging.dispatch(groups(2))
        scored = judging.collect()
        judging.close()
        found.append(np.concatenate([one.quality for one in scored]))
    assert np.array_equal(found[0], found[1], equal_nan=True) and np.array_equal(found[0], found[2], equal_nan=True)
    assert found[0].shape == (8, len(REWARDS)) and np.isfinite(found[0][:, :3]).all()


def test_there_are_fewer_than_a_hundred_metrics_with_every_reward_on() -> None:
    times = [f"time/{name}" for name in TIMES]
    several = [name for name, column in COLUMNS.items() if "{}" in column] + ["trade"]
    alarms = {f"alarm/{name}" for name in get_args(AlarmName) if name not in several}
    alarms |= {f"alarm/{name}/{subject}" for name in several for subject in REWARDS}
    names = metric_names(list(REWARDS))
    assert len({*names, *times, *TRL_LOGS, *alarms}) == len(names) + 7 + 6 + 3 + 4 * 4 < 100


def test_wholly_unknown_rewards_have_no_mean() -> None:
    found = batch_metrics(
        ["recall"],
        np.full((4, 1), np.nan),
        masked=np.zeros(4, bool),
        words=np.ones(4),
        ratio=np.full(4, np.nan),
        text=np.zeros((4, 3)),
        quality=np.full((4, 4), np.nan),
        failure_rate=1.0,
        advantages=np.zeros(4),
        group_size=2,
    )
    assert math.isnan(found["reward/recall/mean"]) and math.isnan(found["length/ratio"])
    assert found["reward/recall/unknown"] == 1.0 and found["reward/recall/dead"] == 1.0
    assert math.isnan(found["reward/recall/group_std"])


def test_rewards_are_correlated_inside_groups() -> None:
    """Against numpy on what is known, less the groups' means; that one picture scores higher is no correlation."""
    rng = np.random.default_rng(0)
    pair = rng.random((24, 2)) + np.repeat([[0.0, 0.0], [5.0, 5.0], [9.0, 9.0]], 8, axis=0)
    known = np.concatenate([part - part.mean(axis=0) for part in pair.reshape(3, 8, 2)])
    assert correlation(pair, 8) == pytest.approx(np.corrcoef(known.T)[0, 1])
    pair[0, 1] = pair[9, 0] = np.nan
    left = [pair[1:8], pair[[8, *range(10, 16)]], pair[16:]]
    known = np.concatenate([part - part.mean(axis=0) for part in left])
    assert correlation(pair, 8) == pytest.approx(np.corrcoef(known.T)[0, 1])
    assert correlation(np.column_stack([pair[:, 0], -2.0 * pair[:, 0]]), 8) == pytest.approx(-1.0)
    assert math.isnan(correlation(np.full((8, 2), np.nan), 8))


def test_importance_weights_are_shares_or_unknown() -> None:
    assert list(importance_metrics(1, 2, 8).values()) == [0.125, 0.25]
    assert all(math.isnan(value) for value in importance_metrics(0, 0, 0).values())


def test_an_unknown_group_does_not_lower_the_spread() -> None:
    column = np.array([0.0, 1.0, np.nan, np.nan, np.nan, 0.5])
    assert reward_metrics("recall", column, 2)["reward/recall/group_std"] == pytest.approx(math.sqrt(0.5))


def test_a_phase_holds_the_batch_and_its_updates(tmp_path: Path) -> None:
    config = grpo_config(world.settings(), tmp_path, [3])
    assert config.generation_batch_size == 16 and config.num_generations == 4
    assert config.steps_per_generation == 4 and config.gradient_accumulation_steps == 2
    assert config.max_steps == 8 and config.save_steps == 4
    assert config.generation_kwargs == {"suppress_tokens": [3]}
    assert not config.log_multimodal and not config.bf16


def test_no_group_may_span_two_ranks() -> None:
    assert steps_per_generation(world.settings(), ranks=2) == 2
    with pytest.raises(TrainingError, match="no group spans two ranks"):
        steps_per_generation(world.settings(group_size=8, micro_batch_size=2), ranks=4)
    with pytest.raises(TrainingError, match="micro_batch_size"):
        steps_per_generation(world.settings(), ranks=4)


def curve(step: int, value: float | None) -> dict[str, Any]:
    return {"step": step, **dict.fromkeys(metric_names(["precision", "recall"]), 0.5), "reward/recall/mean": value}


def test_the_summary_compares_both_ends_of_the_run() -> None:
    params = world.settings(reward_weights={"precision": 1.0, "recall": 3.0})
    found = summary([curve(i + 1, i / 40) for i in range(40)], ["precision", "recall"], params)
    assert found["reward_first"] == pytest.approx((0.5 + 3 * np.mean(range(10)) / 40) / 4, abs=1e-6)
    assert found["reward_rise"] == pytest.approx(0.75 * 30 / 40, abs=1e-6)
    assert 0.0 < found["reward_rise_low"] < found["reward_rise"] < found["reward_rise_high"]
    assert found["steps"] == 40 and found["captions"] == 640
    flat = summary([curve(i + 1, 0.5) for i in range(3)], ["precision", "recall"], params)
    assert flat["reward_rise"] == flat["reward_rise_low"] == 0.0


def test_an_unknown_mean_is_empty_and_no_zero(tmp_path: Path) -> None:
    params = world.settings(reward_weights={"precision": 1.0, "recall": 3.0})
    rows = [curve(1, None), curve(2, 0.25)]
    write_curves(tmp_path / "curves.csv", rows, ["precision", "recall"])
    head, first, second = (tmp_path / "curves.csv").read_text().splitlines()
    place = head.split(",").index("reward/recall/mean")
    assert head.split(",")[0] == "step" and "time" not in head
    assert first.split(",")[place] == "" and second.split(",")[place] == "0.25"
    assert summary(rows, ["precision", "recall"], params)["reward_first"] == 0.5


def test_an_unknown_step_leaves_the_summary_known() -> None:
    params = world.settings(reward_weights={"precision": 1.0, "recall": 3.0})
    known = [curve(i + 1, 0.25 if i < 10 else 0.75) for i in range(20)]
    expected = summary(known, ["precision", "recall"], params)
    assert (expected["reward_first"], expected["reward_rise"]) == (0.3125, 0.375)
    lost = dict.fromkeys(metric_names(["precision", "recall"]))
    for gap in (lost, {"reward/recall/mean": None}, {"reward/precision/mean": None}):
        rows = [{**row, **gap} if row["step"] in (3, 18) else row for row in known]
        found = summary(rows, ["precision", "recall"], params)
        assert {key: found[key] for key in found if key.startswith("reward_")} == {
            "reward_first": 0.3125, "reward_last": 0.6875,
            "reward_rise": 0.375, "reward_rise_low": 0.375, "reward_rise_high": 0.375,
        }  # fmt: skip


def test_a_reward_that_one_end_of_the_run_does_not_know_moves_nothing() -> None:
    params = world.settings(reward_weights={"precision": 1.0, "recall": 3.0})
    rows = [curve(i + 1, None if i < 10 else 0.9) for i in range(20)]
    found = summary(rows, ["precision", "recall"], params)
    assert (found["reward_first"], found["reward_last"], found["reward_rise"]) == (0.5, 0.5, 0.0)
    nothing = summary([{**row, "reward/precision/mean": None} for row in rows], ["precision", "recall"], params)
    assert all(nothing[f"reward_{key}"] is None for key in ("first", "last", "rise", "rise_low", "rise_high"))


def test_samples_keep_unknown_as_nan(tmp_path: Path) -> None:
    row = {"step": 0, "image_id": "a", "caption": "A b.", "truncated": False, "verdict": "{}", "masked": True}
    write_samples(tmp_path / "s.parquet", [{**row, "precision": None}], ["precision"])
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["step", "image_id", "caption", "truncated", "verdict", "precision", "masked"]
    assert math.isnan(table["precision"][0].as_py())
