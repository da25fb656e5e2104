"""``params.yaml`` as one strict model per stage; errors name the key, the value and what is allowed.

    params = load_params()          # reads ./params.yaml
    params.train.reward_weights     # {"precision": 1.0, ...}

A recipe is complete: nothing that changes a result has a default. Two more sections change no result and no stage
depends on them: ``runtime``, and later ``promote``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from balcap.params.base import Strict
from balcap.params.collect import CollectQuestions, CollectReferences
from balcap.params.evaluate import Evaluate
from balcap.params.judge import LlmJudge, NoisyJudge, RuleJudge
from balcap.params.launch import launch_faults
from balcap.params.prepare import Prepare
from balcap.params.register import Register
from balcap.params.runtime import Runtime
from balcap.params.train import Train
from balcap.params.validate import ValidateImages, ValidateReferences
from balcap.params.warmstart import Warmstart

__all__ = ["Params", "ParamsError", "check_params", "load_params", "read_params"]


class ParamsError(ValueError):
    """Parameters that cannot be run; the message names file, key, value and what is allowed."""


class Params(Strict):
    """All of ``params.yaml``."""

    recipe: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*$")
    """Name of the recipe that these parameters started from."""
    prepare: Prepare
    validate_images: ValidateImages
    collect_references: CollectReferences
    collect_questions: CollectQuestions
    validate_references: ValidateReferences
    warmstart: Warmstart
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    runtime: Runtime

    @property
    def asked_models(self) -> dict[str, str]:
        """The language models that a run asks, by the parameter that names them."""
        judges = {"train.judge": self.train.judge, "evaluate.judge": self.evaluate.judge}
        found = {key: judge.model for key, judge in judges.items() if judge.name == "llm"}
        if self.collect_references.writer.name == "llm":
            found["collect_references.writer"] = self.collect_references.writer.model
        if reader := self.collect_questions.reader:
            found["collect_questions.reader"] = reader.model
        return found

    @model_validator(mode="after")
    def _judges_differ(self) -> Params:
        same = _identity(self.train.judge) == _identity(self.evaluate.judge)
        if same and not self.evaluate.allow_training_judge:
            raise ValueError(
                f"evaluate.judge is the training judge ({self.train.judge.name}); name another, "
                "or set evaluate.allow_training_judge: true to accept that it grades its own pupil"
            )
        return self

    @model_validator(mode="after")
    def _models_are_served(self) -> Params:
        known = ", ".join(self.runtime.serving) or "nothing"
        for key, model in self.asked_models.items():
            if model not in self.runtime.serving:
                raise ValueError(f"{key}.model = {model}: runtime.serving does not say where it is; it has {known}")
        return self

    @model_validator(mode="after")
    def _training_fits_its_launch(self) -> Params:
        if faults := launch_faults(self.train, self.runtime):
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _facts_need_scenes(self) -> Params:
        """Only procedural pictures carry the facts that the embedded world's writers and judge read."""
        used = {
            "collect_references.writer.name": self.collect_references.writer.name,
            "collect_questions.writer.name": self.collect_questions.writer.name,
            "train.judge.name": self.train.judge.name,
            "evaluate.judge.name": self.evaluate.judge.name,
        }
        wrong = [f"{key} = {name}" for key, name in used.items() if name in ("scenes", "oracle", "noisy")]
        if self.prepare.source.name != "scenes" and wrong:
            raise ValueError(
                f"{', '.join(wrong)}: needs pictures with known facts, prepare.source.name is "
                f"{self.prepare.source.name}; use writer file or llm and judge lexical or llm, "
                "or prepare.source.name scenes"
            )
        return self


def _identity(judge: RuleJudge | NoisyJudge | LlmJudge) -> tuple[str, str, str]:
    """What makes two judges one: rule and revision, or the model; other prompts make no other judge of it."""
    return (judge.name, judge.model, judge.model_revision) if judge.name == "llm" else (judge.name, judge.revision, "")


def read_params(path: Path | str = "params.yaml") -> dict[str, Any]:
    """The plain content of a parameter file; raises :class:`ParamsError` if it is missing or no YAML mapping."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `balcap recipe apply embedded` writes one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected sections such as `prepare:` and `train:`, found {type(raw).__name__}")
    return raw


def check_params(raw: dict[str, Any], source: str = "params.yaml") -> Params:
    """Validate parsed parameters; raises :class:`ParamsError` with one line per fault."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ParamsError("\n".join(_line(source, raw, fault) for fault in error.errors())) from None


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate a parameter file."""
    return check_params(read_params(path), str(path))


def _line(source: str, raw: dict[str, Any], fault: Any) -> str:
    """One fault as ``file: key = value: what is allowed``."""
    key = _key(raw, fault["loc"]) or "(the file)"
    if fault["type"] == "extra_forbidden":
        return f"{source}: {key} = {fault['input']!r}: unknown key; {_allowed_keys(fault['loc'])}"
    if fault["type"] == "missing":
        return f"{source}: {key} is missing; a recipe is complete (see recipes/)"
    reason = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], dict | Strict) else f" = {fault['input']!r}"
    return f"{source}: {key}{shown}: {reason}"


def _key(raw: Any, loc: tuple[Any, ...]) -> str:
    """The dotted key as a person writes it: pydantic's location without the tags of its unions."""
    parts = []
    for i, part in enumerate(loc):
        known = isinstance(raw, dict) and part in raw
        if known or isinstance(raw, list) or i == len(loc) - 1:
            parts.append(str(part))
            raw = raw[part] if known else None
    return ".".join(parts)


def _allowed_keys(loc: tuple[Any, ...]) -> str:
    """The keys that the section of ``loc`` knows."""
    node: Any = Params
    for part in loc[:-1]:
        node = _child(node, str(part))
    fields = getattr(node, "model_fields", None)
    if not fields:
        return "see recipes/ for the allowed ones"
    return "allowed here: " + ", ".join(field.alias or name for name, field in fields.items())


def _child(node: Any, name: str) -> Any:
    """The model behind one step of an error's location: a field's model, or a member of a tagged union."""
    fields = getattr(node, "model_fields", {})
    for key, field in fields.items():
        if (field.alias or key) == name:
            return field.annotation
    for member in getattr(node, "__args__", ()):
        tag = getattr(member, "model_fields", {}).get("name")
        if tag is not None and name in getattr(tag.annotation, "__args__", ()):
            return member
    return None
