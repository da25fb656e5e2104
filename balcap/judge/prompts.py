"""The words of judges and of the reader of questions: the files in ``prompts/``, and which call uses which.

prompts = pinned_prompts(params.train.judge, "train.judge", kinds(parts))
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from balcap.llm import prompts
from balcap.llm.prompts import Prompt
from balcap.params.judge import LlmJudge

FOLDER = Path(__file__).with_suffix("")


def load_prompt(name: str) -> Prompt:
    """Read ``NAME.md``; raises ``PromptError``."""
    return prompts.load_prompt(name, FOLDER)


def pinned(name: str, sha256: str, key: str) -> Prompt:
    """The prompt ``name`` if it is the one that the parameter ``key`` pins; raises ``PromptError`` otherwise."""
    return prompts.pinned(name, sha256, key, FOLDER)


def file_of(params: LlmJudge, kind: str) -> str:
    """The name of the prompt that a kind of call is made with."""
    return "precision-text" if kind == "precision" and not params.sees_picture else kind


def pinned_prompts(params: LlmJudge, key: str, kinds: Iterable[str]) -> dict[str, Prompt]:
    """The prompts of these kinds of call; raises ``PromptError`` naming ``KEY.prompts.KIND`` for another file."""
    hashes = params.prompts.model_dump()
    return {kind: pinned(file_of(params, kind), hashes[kind], f"{key}.prompts.{kind}") for kind in kinds}
