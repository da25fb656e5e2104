"""The words of a version's judges in MLflow's prompt registry, where people who read no code can look them up.

    tags = mirror(client, params)

A mirror, never the source: the files in ``balcap/judge/prompts`` are what judges say, pinned by hash in the parameters.
One registry version per content, named ``judge-NAME``, tagged with the file's sha256; the model version gets a tag per
judge and kind of call that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from balcap.judge.prompts import Prompt, pinned_prompts
from balcap.judge.reader import reader_prompts
from balcap.params import Params

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "sha256"


def mirror(client: MlflowClient, params: Params) -> dict[str, str]:
    """Register the prompts that the language models of a run are asked with.

    Returns tags such as ``prompt.train.recall: judge-recall/3``. Raises ``JudgeMismatch`` when a file is not the pinned
    one and MLflow's errors when the registry cannot be reached.
    """
    return {
        f"prompt.{role}.{kind}": f"judge-{prompt.name}/{ensure_prompt(client, prompt)}"
        for role, prompts in words(params).items()
        for kind, prompt in prompts.items()
    }


def words(params: Params) -> dict[str, dict[str, Prompt]]:
    """Who is asked with which prompts: the judges ``train`` and ``evaluate``, and the reader of ``questions``."""
    found = {
        role: pinned_prompts(judge, f"{role}.judge")
        for role, judge in (("train", params.train.judge), ("evaluate", params.evaluate.judge))
        if judge.name == "llm"
    }
    if reader := params.collect_questions.reader:
        found["questions"] = reader_prompts(reader)
    return found


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
