"""The words of a version's judges in MLflow's prompt registry, where people who read no code can look them up.

    tags = mirror(client, {"train": params.train.judge, "evaluate": params.evaluate.judge})

A mirror, never the source: the files in ``balcap/judge/prompts`` are what judges say, pinned by hash in the parameters.
One registry version per content, named ``judge-NAME``, tagged with the file's sha256; the model version gets a tag per
judge and kind of call that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from balcap.judge.prompts import Prompt, pinned_prompts
from balcap.params.judge import LlmJudge, RuleJudge

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "sha256"


def mirror(client: MlflowClient, judges: Mapping[str, RuleJudge | LlmJudge]) -> dict[str, str]:
    """Register the prompts that language models among ``judges`` (by role) are asked with.

    Returns tags such as ``prompt.train.recall: judge-recall/3``. Raises ``JudgeMismatch`` when a file is not the pinned
    one and MLflow's errors when the registry cannot be reached.
    """
    tags = {}
    for role, judge in judges.items():
        if judge.name == "llm":
            for kind, prompt in pinned_prompts(judge, f"{role}.judge").items():
                tags[f"prompt.{role}.{kind}"] = f"judge-{prompt.name}/{ensure_prompt(client, prompt)}"
    return tags


def ensure_prompt(client: MlflowClient, prompt: Prompt) -> int:
    """The registry's version with this content; made if there is none."""
    from mlflow.exceptions import MlflowException

    name = f"judge-{prompt.name}"
    try:
        there = client.search_prompt_versions(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = []
    for version in there:
        if version.tags.get(TAG) == prompt.sha256:
            return int(version.version)
    said = f"version {prompt.version} of balcap/judge/prompts/{prompt.name}.md"
    made = client.register_prompt(name, prompt.text, commit_message=said, tags={TAG: prompt.sha256})
    return int(made.version)
