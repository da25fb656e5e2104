"""Alarms on rows that are written down here, and on the curves of a healthy run of the embedded default."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from balcap.params import load_params
from balcap.params.train import Alarms
from balcap.training import pause
from balcap.training.alarms import Sound, measure, replay
from balcap.training.metrics import metric_names
from balcap.training.outputs import summary

ROOT = Path(__file__).parents[2]
HEALTHY = Path(__file__).with_name("healthy_curves.csv")
"""What the alarms read of a whole run of the embedded default, whose held-out score doubled."""
REWARDS = ("precision", "recall", "linguistic")
Row = dict[str, float | None]


def alarms(window: int = 2, action: str = "warn", **limits: float) -> Alarms:
    when = {name: {"limit": limit, "action": action} for name, limit in limits.items()}
    return Alarms.model_validate({"window": window, "when": when})


def rows(**columns: list[float | None]) -> list[Row]:
    """Rows in which nothing is wrong but what is given, by column (``__`` for ``/``)."""
    length = max(map(len, columns.values()))
    fine = {name: 0.5 for name in metric_names(REWARDS)} | {f"reward/{name}/unknown": 0.0 for name in REWARDS}
    given = {name.replace("__", "/"): values for name, values in columns.items()}
    return [{**fine, "step": i + 1} | {name: values[i] for name, values in given.items()} for i in range(length)]


def heard(found: list[Row], watched: Alarms) -> list[tuple[str, str, int]]:
    return [pause.identity(sound) for sound in replay(found, watched, REWARDS)[1]]


CASES: dict[str, tuple[float, dict[str, list[float | None]], tuple[str, int]]] = {
    "dead": (0.9, {"reward__recall__dead": [0.5, 0.8, 0.9, 1.0]}, ("recall", 4)),
    "spread": (0.1, {"reward__precision__group_std": [0.2, 0.2, 0.2, 0.03, 0.01]}, ("precision", 5)),
    "unknown": (0.25, {"reward__linguistic__unknown": [0.0, 0.1, 0.4, 0.2]}, ("linguistic", 4)),
    "masked": (0.05, {"length__masked": [0.3, 0.3, 0.9, 0.96, 0.98]}, ("", 5)),
    "length": (3.0, {"length__words": [20.0, 20.0, 50.0, 75.0]}, ("", 4)),
    "entropy": (0.02, {"policy__entropy": [1.0, 1.0, 0.03, 0.02, 0.0]}, ("", 5)),
    "trade": (
        0.1,
        {"reward__precision__mean": [0.5, 0.5, 0.6, 0.7], "quality__recall": [0.4, 0.4, 0.3, 0.2]},
        ("recall", 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_alarm_sounds_in_the_first_step_that_is_beyond_its_limit(name: str) -> None:
    limit, columns, (subject, step) = CASES[name]
    assert heard(rows(**columns), alarms(**{name: limit})) == [(name, subject, step)]
    others = {other: case[0] for other, case in CASES.items() if other != name}
    assert not heard(rows(**columns), alarms(**others)), "and no other alarm does"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("masked", {"length__masked": [0.3, 0.3, 0.1, 0.0, 0.0]}),  # towards 0, too
        ("masked", {"length__masked": [0.02, 0.02, 0.97, 1.0]}),  # from one end to the other
        ("masked", {"length__masked": [0.98, 0.98, 0.02, 0.0]}),
        ("length", {"length__words": [30.0, 30.0, 11.0, 8.0]}),  # shrinking, too
        ("trade", {"reward__recall__mean": [0.1, 0.1, 0.2, 0.3], "quality__utility": [0.8, 0.8, 0.6, 0.6]}),
    ],
)
def test_alarms_have_two_sides(name: str, columns: dict[str, list[float | None]]) -> None:
    assert len(heard(rows(**columns), alarms(**{name: CASES[name][0]}))) == 1


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("masked", {"length__masked": [0.02, 0.02, 0.02, 0.0]}),  # it was there from the start
        ("masked", {"length__masked": [0.98, 0.98, 0.99, 1.0]}),
        ("spread", {"reward__recall__group_std": [0.0, 0.0, 0.0, 0.0]}),  # there is nothing to collapse
        ("trade", {"quality__recall": [0.5, 0.5, 0.1, 0.1]}),  # nothing rose meanwhile
        ("trade", {"reward__recall__mean": [0.1, 0.1, 0.9], "quality__recall": [0.5, 0.5, 0.1]}),  # with itself
    ],
)
def test_what_is_no_alarm(name: str, columns: dict[str, list[float | None]]) -> None:
    assert not heard(rows(**columns), alarms(**{name: CASES[name][0]}))


def test_nothing_sounds_before_the_first_window_is_full() -> None:
    assert heard(rows(reward__recall__dead=[1.0, 1.0, 1.0]), alarms(window=3, dead=0.9)) == [("dead", "recall", 3)]
    assert not list(measure(rows(reward__recall__dead=[1.0, 1.0]), alarms(window=3, dead=0.9), REWARDS))


@pytest.mark.parametrize("unknown", [None, math.nan])
@pytest.mark.parametrize("name", CASES)
def test_what_is_unknown_sounds_nothing_and_silences_nothing(name: str, unknown: float | None) -> None:
    limit, columns, (subject, step) = CASES[name]
    never = {column: [unknown] * len(values) for column, values in columns.items()}
    assert not heard(rows(**never), alarms(**{name: limit}))
    then_unknown = {column: [*values, *[unknown] * 6, values[-1], values[-1]] for column, values in columns.items()}
    assert heard(rows(**then_unknown), alarms(**{name: limit})) == [(name, subject, step)], "it did not sound again"


def test_means_are_of_the_known_values() -> None:
    found = rows(reward__recall__unknown=[0.0, 0.0, None, 0.3])
    assert heard(found, alarms(unknown=0.25)) == [("unknown", "recall", 4)]


def test_an_alarm_sounds_again_only_after_a_window_of_silence() -> None:
    stutter = [0.95, 0.95, 0.82, 1.0, 0.0, 0.0, 1.0, 1.0]  # means of two steps: .95, .885, .91, .5, 0, .5, 1
    assert heard(rows(reward__recall__dead=stutter), alarms(dead=0.9)) == [("dead", "recall", 2), ("dead", "recall", 8)]
    assert heard(rows(reward__recall__dead=stutter), alarms(window=1, dead=0.9)) == [
        ("dead", "recall", step) for step in (1, 4, 7)
    ]


def test_an_alarm_says_what_it_measured() -> None:
    limit, columns, _ = CASES["trade"]
    (sound,) = replay(rows(**columns), alarms(trade=limit), REWARDS)[1]
    assert str(sound) == (
        "alarm trade at step 4: recall went from 0.400 to 0.250, and reward precision from 0.500 to 0.650 "
        "(limit 0.1 below the start); means of 2 steps"
    )
    assert sound.value == pytest.approx(0.15)


def test_the_summary_counts_what_sounded() -> None:
    params = load_params(ROOT / "recipes/smoke.yaml").train.model_copy(update={"alarms": alarms(dead=0.9)})
    assert summary(rows(reward__recall__dead=[1.0, 1.0]), REWARDS, params)["alarms"] == 1
    assert summary(rows(reward__recall__dead=[0.0, 1.0]), REWARDS, params)["alarms"] == 0


@pytest.mark.parametrize(
    ("name", "limit"), [("length", 1.0), ("dead", 1.0), ("masked", 0.5), ("entropy", 1.0), ("spread", 0.0)]
)
def test_limits_that_mean_nothing_are_refused(name: str, limit: float) -> None:
    with pytest.raises(ValidationError, match=r"always or never|greater than 0"):
        alarms(**{name: limit})


def test_a_marker_is_accepted_once_and_by_whom_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BALCAP_FLOW_RUN_ID", pause.RESUME):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_EXP_NAME", "night")
    sounds = [Sound("dead", "recall", 7, 1.0, "all dead", "pause")]
    pause.go_on(tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is waiting"
    work = tmp_path / "train" / "key"
    work.mkdir(parents=True)
    pause.mark(work, sounds)
    assert pause.waiting(work) == sounds and pause.find(work.parent, "night") == work
    assert pause.find(work.parent, "other") is None

    monkeypatch.setenv("BALCAP_FLOW_RUN_ID", "1")  # another flow, or a retry, that nobody told to go on
    monkeypatch.setenv("DVC_EXP_NAME", "nightly")
    with pytest.raises(pause.AlarmPaused, match="alarm dead at step 7: all dead; nobody has accepted that yet"):
        pause.go_on(work)
    assert pause.waiting(work) == sounds and pause.find(work.parent, "nightly") == work
    monkeypatch.setenv(pause.RESUME, "1")
    pause.go_on(work)
    assert pause.waiting(work) == [] and pause.accepted(work) == {("dead", "recall", 7)}

    pause.mark(work, [Sound("trade", "recall", 9, 0.2, "worse", "pause")])
    monkeypatch.delenv("BALCAP_FLOW_RUN_ID")  # by hand: whoever starts it again
    monkeypatch.delenv(pause.RESUME)
    pause.go_on(work)
    assert pause.accepted(work) == {("dead", "recall", 7), ("trade", "recall", 9)}
    assert json.loads((work / pause.ACCEPTED).read_text())["alarms"][0] == ["dead", "recall", 7]


def recipes() -> list[Any]:
    files = sorted((ROOT / "recipes").glob("*.yaml"))
    return [pytest.param(yaml.safe_load(file.read_text())["train"]["alarms"], id=file.stem) for file in files]


@pytest.mark.parametrize("configured", recipes())
def test_no_recipe_warns_of_a_healthy_run(configured: dict[str, Any]) -> None:
    with HEALTHY.open(newline="") as file:
        found = [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]
    assert len(found) == 210 and all(found[-1][name] is not None for name in ("policy/entropy", "quality/recall"))
    watched = Alarms.model_validate(configured)
    assert not heard(found, watched)
    known = {key for key, finding in measure(found, watched, REWARDS) if finding is not None}
    assert {alarm for alarm, _ in known} == set(watched.when), "each of them was measured"
