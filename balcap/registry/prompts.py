"""The words of a version's judges in MLflow's prompt registry, where people who read no code can look them up.

    tags = name_words(client, params, "balcap-embedded", version)

A mirror, never the source: the files in ``balcap/judge/prompts`` are what judges say, pinned by hash in the parameters.
One registry version per content, named ``judge-NAME``, tagged with the file's sha256; the model version gets a tag per
judge and kind of call that names it. A file that has moved on since a judge was asked leaves the hash that was pinned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from balcap.judge.llm import kinds
from balcap.judge.prompts import file_of, load_prompt
from balcap.judge.reader import PROMPTS
from balcap.params import Params
from balcap.records import PARTS
from balcap.rewards import needed

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TAG = "sha256"


class Used(NamedTuple):
    """A prompt that a model was asked with: by whom (``train.recall``), its file's name and its pinned hash."""

    role: str
    name: str
    sha256: str


def name_words(client: MlflowClient, params: Params, model: str, version: str) -> dict[str, str]:
    """:func:`mirror` the prompts and name them by tags of a model version; returns the tags."""
    tags = mirror(client, params)
    for name, value in tags.items():
        client.set_model_version_tag(model, version, name, value)
    return tags


def mirror(client: MlflowClient, params: Params) -> dict[str, str]:
    """Register the prompts that the language models of a run are asked with.

    Returns tags such as ``prompt.train.recall: judge-recall/3``. Raises ``Mismatch`` for an unreadable file, and
    MLflow's errors when the registry cannot be reached.
    """
    return {f"prompt.{one.role}": _named(client, one) for one in used(params)}


def used(params: Params) -> Iterator[Used]:
    """The prompts of the judges ``train`` and ``evaluate``, and of the reader of ``questions``."""
    in_training = needed(params.train.reward_weights)
    for role, judge, parts in (("train", params.train.judge, in_training), ("evaluate", params.evaluate.judge, PARTS)):
        if judge.name == "llm":
            for kind in kinds(parts):
                yield Used(f"{role}.{kind}", file_of(judge, kind), getattr(judge.prompts, kind))
    if reader := params.collect_questions.reader:
        for how, name in PROMPTS.items():
            yield Used(f"questions.{how}", name, getattr(reader.prompts, how))


def _named(client: MlflowClient, one: Used) -> str:
    version = ensure_prompt(client, one.name, one.sha256)
    return f"judge-{one.name}/{version}" if version else f"judge-{one.name} sha256 {one.sha256}"


def ensure_prompt(client: MlflowClient, name: str, sha256: str) -> int | None:
    """The registry's version with this content, made of the file if there is none; None if the file is another one."""
    from mlflow.exceptions import MlflowException

    try:
        there = client.search_prompt_versions(f"judge-{name}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        there = []
    for version in there:
        if version.tags.get(TAG) == sha256:
            return int(version.version)
    prompt = load_prompt(name)
    if prompt.sha256 != sha256:
        return None
    said = f"version {prompt.version} of balcap/judge/prompts/{name}.md"
    made = client.register_prompt(f"judge-{name}", prompt.text, commit_message=said, tags={TAG: sha256})
    return int(made.version)
