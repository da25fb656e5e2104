"""Judges' prompts in a real MLflow prompt registry (SQLite in a temporary folder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from balcap.judge.base import JudgeMismatch
from balcap.judge.prompts import FOLDER, load_prompt
from balcap.judge.reader import PROMPTS
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
    assert tags == {
        f"prompt.train.{kind}": f"judge-{kind}/1" for kind in ("precision", "recall", "linguistic", "answer")
    }
    kept = client.get_prompt_version("judge-recall", 1)
    assert kept.template == (FOLDER / "recall.md").read_text(encoding="utf-8")
    assert kept.tags["sha256"] == load_prompt("recall").sha256
    assert mirror(client, params) == tags
    assert len(client.search_prompt_versions("judge-recall")) == 1


def test_other_words_are_another_version_and_old_ones_are_found_again(client: Any, tmp_path: Path) -> None:
    old = load_prompt("recall")
    (tmp_path / "recall.md").write_text(old.text.replace("## system\n\n", "## system\n\nBe brief. "), encoding="utf-8")
    new = load_prompt("recall", tmp_path)
    assert [ensure_prompt(client, prompt) for prompt in (old, new, old, new)] == [1, 2, 1, 2]


def test_words_that_are_not_the_pinned_ones_are_refused(client: Any, params: Params) -> None:
    judge = params.train.judge
    assert isinstance(judge, LlmJudge)
    other = judge.model_copy(update={"prompts": judge.prompts.model_copy(update={"recall": "0" * 64})})
    with pytest.raises(JudgeMismatch, match=r"train\.judge\.prompts\.recall"):
        mirror(client, params.model_copy(update={"train": params.train.model_copy(update={"judge": other})}))


def test_the_reader_of_questions_has_words_too(client: Any, params: Params) -> None:
    words = ReaderPrompts(**{how: load_prompt(name).sha256 for how, name in PROMPTS.items()})
    reader = QuestionReader(model="m", model_revision="1", prompts=words, max_tokens=9, max_failure_rate=0.0)
    questions = params.collect_questions.model_copy(update={"reader": reader})
    tags = mirror(client, params.model_copy(update={"collect_questions": questions}))
    assert tags["prompt.questions.blind"] == "judge-question-blind/1"
