"""Sections ``collect_references`` and ``collect_questions``: who writes, and from what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from balcap.params.base import PathText, Sha256, Share, Strict


class ScenesTeacher(Strict):
    """The imperfect teacher of the embedded world (`miniature`, section 2)."""

    name: Literal["scenes"]
    seed: int = Field(ge=0)


class FileWriter(Strict):
    """Reads what people (or another system) wrote: JSONL, CSV or parquet at the section's `path`."""

    name: Literal["file"]
    encoding: Literal["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"]


Writer = Annotated[ScenesTeacher | FileWriter, Field(discriminator="name")]


class CollectReferences(Strict):
    """Section `collect_references`."""

    path: PathText
    """What the writer reads: the captions file, or `balcap/scenes` for the teacher."""
    writer: Writer
    shard_size: PositiveInt
    """Pictures per resumable unit of work."""
    max_failure_share: Share
    """The stage fails when more than this share of the pictures gets no reference."""


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
    writer: Writer
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
