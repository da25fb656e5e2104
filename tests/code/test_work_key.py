"""The key of resumable work: another one for whatever changes the work, the same one for what a run puts up with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from balcap import workspace
from balcap.workspace import TOLERANCES, value_of, work_key

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(workspace, "stage_inputs", lambda stage, params, root: {"code": "as it is"})
    raw: dict[str, Any] = yaml.safe_load((ROOT / "recipes/embedded-llm-judge.yaml").read_text())
    return raw


def key(params: dict[str, Any], name: str, value: Any) -> str:
    """Of training, with one value changed."""
    changed = copy.deepcopy(params)
    *path, last = name.split(".")
    value_of(changed, ".".join(path))[last] = value
    return work_key("train", changed, ROOT)


def test_what_changes_the_work_changes_its_key(params: dict[str, Any]) -> None:
    same = work_key("train", params, ROOT)
    others = [
        key(params, name, value)
        for name, value in (
            ("train.seed", 9),
            ("train.judge.model_revision", "other"),
            ("train.judge.prompts.recall", "0" * 64),
            ("train.advantage.std_floor", 0.1),
        )
    ]
    assert len({same, *others}) == 5


def test_a_stopped_training_may_be_allowed_more_and_goes_on(params: dict[str, Any]) -> None:
    same = work_key("train", params, ROOT)
    assert {key(params, "train.judge.max_failure_rate", 0.5), key(params, "train.judge_deadline", 999.0)} == {same}
    for name in TOLERANCES:
        value_of(params, name)  # they are there, under these names
    assert key(params, "evaluate.judge.max_failure_rate", 0.5) == same, "not a section of this stage"
