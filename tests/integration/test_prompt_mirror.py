"""Judges' prompts in a real MLflow prompt registry (SQLite in a temporary folder)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from balcap.judge.base import JudgeMismatch
from balcap.judge.prompts import FOLDER, load_prompt
from balcap.mlflow_store import connect
from balcap.params import load_params
from balcap.params.judge import LlmJudge, RuleJudge
from balcap.registry.prompts import ensure_prompt, mirror

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(tmp_path: Path) -> Any:
    return connect(f"sqlite:///{tmp_path}/mlflow.db")


def judges() -> dict[str, RuleJudge | LlmJudge]:
    params = load_params(ROOT / "recipes/embedded-llm-judge.yaml")
    return {"train": params.train.judge, "evaluate": params.evaluate.judge}


def test_the_words_of_a_language_model_are_mirrored_once(client: Any) -> None:
    tags = mirror(client, judges())
    assert tags == {
        f"prompt.train.{kind}": f"judge-{kind}/1" for kind in ("precision", "recall", "linguistic", "answer")
    }
    kept = client.get_prompt_version("judge-recall", 1)
    assert kept.template == (FOLDER / "recall.md").read_text(encoding="utf-8")
    assert kept.tags["sha256"] == load_prompt("recall").sha256
    assert mirror(client, judges()) == tags
    assert len(client.search_prompt_versions("judge-recall")) == 1


def test_other_words_are_another_version_and_old_ones_are_found_again(client: Any, tmp_path: Path) -> None:
    old = load_prompt("recall")
    (tmp_path / "recall.md").write_text(old.text.replace("## system\n\n", "## system\n\nBe brief. "), encoding="utf-8")
    new = load_prompt("recall", tmp_path)
    assert [ensure_prompt(client, prompt) for prompt in (old, new, old, new)] == [1, 2, 1, 2]


def test_words_that_are_not_the_pinned_ones_are_refused(client: Any) -> None:
    judge = judges()["train"]
    assert isinstance(judge, LlmJudge)
    other = judge.model_copy(update={"prompts": judge.prompts.model_copy(update={"recall": "0" * 64})})
    with pytest.raises(JudgeMismatch, match=r"train\.judge\.prompts\.recall"):
        mirror(client, {"train": other})
