"""Sections ``collect_references`` and ``collect_questions``: who writes, and from what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from balcap.params.base import PathText, Sha256, Share, Strict


class ScenesTeacher(Strict):
    """The imperfect teacher of the embedded world (`miniature`, section 2)."""

    name: Literal["scenes"]
    seed: int = Field(ge=0)


class FileWriter(Strict):
    """Reads what people (or another system) wrote: JSON, JSONL, CSV or parquet at the section's `path`."""

    name: Literal["file"]
    encoding: Literal["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]


class PromptInstruction(Strict):
    """All pictures are captioned on the words of `balcap/collect/prompts/caption.md`."""

    name: Literal["prompt"]
    prompt: Sha256
    """sha256 of that file (`balcap judge prompts`)."""


class RecordInstruction(Strict):
    """Each picture is captioned on the instruction of its record in the file at the section's `path`."""

    name: Literal["record"]


class RuleSplitter(Strict):
    """Splits a caption into units by rules of plain English; costs nothing."""

    name: Literal["rule"]


class LlmSplitter(Strict):
    """The writer's model splits its caption into units."""

    name: Literal["llm"]
    prompt: Sha256
    """sha256 of `balcap/collect/prompts/split.md` (`balcap judge prompts`)."""
    max_tokens: PositiveInt
    """Longest list of units; a longer one is a failure."""


class LlmWriter(Strict):
    """A vision-language model behind `runtime.serving` captions each picture."""

    name: Literal["llm"]
    model: str = Field(min_length=1)
    """Name under which it is served, and the key of `runtime.serving`."""
    model_revision: str = Field(min_length=1)
    """Which weights are meant; part of every cached answer's key."""
    instruction: Annotated[PromptInstruction | RecordInstruction, Field(discriminator="name")]
    max_tokens: PositiveInt
    """Longest caption; one that is cut off is a failure."""
    temperature: float = Field(ge=0.0, le=2.0)
    """0 is the likeliest caption."""
    seed: int = Field(ge=0)
    """Sent with each call; matters above temperature 0."""
    splitter: Annotated[RuleSplitter | LlmSplitter, Field(discriminator="name")]


QuestionWriter = Annotated[ScenesTeacher | FileWriter, Field(discriminator="name")]
ReferenceWriter = Annotated[ScenesTeacher | FileWriter | LlmWriter, Field(discriminator="name")]


class CollectReferences(Strict):
    """Section `collect_references`."""

    path: PathText
    """What the writer reads: the captions file; else its own rules, `balcap/scenes` or `balcap/collect/llm.py`."""
    writer: ReferenceWriter
    shard_size: PositiveInt
    """Pictures per resumable unit of work."""
    max_failure_share: Share
    """The stage fails when more than this share of the pictures gets no reference."""

    @model_validator(mode="after")
    def _instructions_are_in_a_file(self) -> CollectReferences:
        if self.writer.name == "llm" and (self.writer.instruction.name == "record") == self.path.endswith(".py"):
            raise ValueError(
                f"path ({self.path}) must be the file of instructions with writer.instruction.name record, and "
                "balcap/collect/llm.py with prompt"
            )
        return self


class ReaderPrompts(Strict):
    """sha256 of the prompt files of a question asked with the picture and without (`balcap judge prompts`)."""

    seen: Sha256
    blind: Sha256


class QuestionReader(Strict):
    """A language model behind `runtime.serving` that answers each question, to measure what it is worth."""

    model: str = Field(min_length=1)
    model_revision: str = Field(min_length=1)
    """Which weights are meant; part of every cached answer's key."""
    prompts: ReaderPrompts
    max_tokens: PositiveInt
    """Longest answer."""
    max_failure_rate: Share
    """The stage fails when more than this share of the accuracies stays unknown."""


class CollectQuestions(Strict):
    """Section `collect_questions`."""

    path: PathText
    """What the writer reads: the questions file, or `balcap/scenes`."""
    writer: QuestionWriter
    per_image: PositiveInt
    """Most questions kept per picture."""
    reader: QuestionReader | None
    """Measures the accuracies that the two limits below test; null: they are those that the writer states."""
    min_accuracy_with_image: float | None = Field(ge=0.0, lt=1.0)
    """Kept only if answered more often than this with the picture; null: not curated by it (CapRL: 0.75)."""
    max_accuracy_without_image: float | None = Field(gt=0.0, le=1.0)
    """Kept only if answered less often than this without the picture; null: not curated by it (CapRL: 0.25)."""
    shard_size: PositiveInt

    @property
    def curated(self) -> bool:
        """Whether a test is on."""
        return self.min_accuracy_with_image is not None or self.max_accuracy_without_image is not None
