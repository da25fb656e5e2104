"""Judges' prompts in a real MLflow prompt registry (SQLite in a temporary folder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from balcap.judge.prompts import FOLDER, load_prompt
from balcap.judge.reader import PROMPTS
from balcap.llm import prompts
from balcap.mlflow_store import connect
from balcap.params import Params, load_params
from balcap.params.collect import QuestionReader, ReaderPrompts
from balcap.params.judge import LlmJudge
from balcap.registry.prompts import ensure_prompt, mirror

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(tmp_path: Path) -> Any:
    return connect(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "recipes/embedded-llm-judge.yaml")


def test_the_words_of_a_language_model_are_mirrored_once(client: Any, params: Params) -> None:
    tags = mirror(client, params)
    assert tags == {f"prompt.train.{kind}": f"judge-{kind}/1" for kind in ("precision", "recall", "linguistic")}
    kept = client.get_prompt_version("judge-recall", 1)
    assert kept.template == (FOLDER / "recall.md").read_text(encoding="utf-8")
    assert kept.tags["sha256"] == load_prompt("recall").sha256
    assert mirror(client, params) == tags
    assert len(client.search_prompt_versions("judge-recall")) == 1


def test_a_file_that_has_moved_on_is_another_version_and_old_words_are_found_again(
    client: Any, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load_prompt("recall")
    assert ensure_prompt(client, "recall", old.sha256) == 1
    (tmp_path / "recall.md").write_text(old.text.replace("## system\n\n", "## system\n\nBe brief. "), encoding="utf-8")
    new = prompts.load_prompt("recall", tmp_path)
    monkeypatch.setattr("balcap.registry.prompts.load_prompt", lambda name: prompts.load_prompt(name, tmp_path))
    assert ensure_prompt(client, "recall", new.sha256) == 2
    assert [ensure_prompt(client, "recall", one.sha256) for one in (old, new)] == [1, 2]


def test_words_that_nobody_has_any_more_leave_their_hash(client: Any, params: Params) -> None:
    judge = params.train.judge
    assert isinstance(judge, LlmJudge)
    other = judge.model_copy(update={"prompts": judge.prompts.model_copy(update={"recall": "0" * 64})})
    tags = mirror(client, params.model_copy(update={"train": params.train.model_copy(update={"judge": other})}))
    assert tags["prompt.train.recall"] == f"judge-recall sha256 {'0' * 64}"
    assert tags["prompt.train.precision"] == "judge-precision/1"


def test_the_reader_of_questions_has_words_too(client: Any, params: Params) -> None:
    words = ReaderPrompts(**{how: load_prompt(name).sha256 for how, name in PROMPTS.items()})
    reader = QuestionReader(model="m", model_revision="1", prompts=words, max_tokens=9, max_failure_rate=0.0)
    questions = params.collect_questions.model_copy(update={"reader": reader})
    tags = mirror(client, params.model_copy(update={"collect_questions": questions}))
    assert tags["prompt.questions.blind"] == "judge-question-blind/1"
