"""Reference and question collection: writers by name, and the engine that runs them resumably.

A writer takes samples and gives the records of each, or an ``Unwritten``. One file per writer: `scenes` (the imperfect
teacher of the embedded world), `file` (what people wrote) and `llm` (a vision-language model behind an endpoint). Every
reference carries the hash of how it was made (``prompt_sha256``): of the prompt for a language model, else of the
writer's own description with its version. All questions are written first, then curated by how well they are answered
with and without the picture (`curate.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from balcap.collect.engine import (
    QUESTIONS,
    REFERENCES,
    Collected,
    Failure,
    Unwritten,
    check_failures,
    collect,
    each,
    read_origins,
    write_failures,
)
from balcap.collect.file import FileWriter, file_instructions, file_questions, file_references, report_problems
from balcap.collect.rows import CollectError
from balcap.params.collect import CollectQuestions, CollectReferences
from balcap.params.runtime import Runtime
from balcap.records import Sample

__all__ = [
    "QUESTIONS",
    "REFERENCES",
    "CollectError",
    "Collected",
    "Failure",
    "Unwritten",
    "Writing",
    "check_failures",
    "collect",
    "question_writer",
    "read_origins",
    "reference_writer",
    "report_problems",
    "write_failures",
]


@dataclass(frozen=True)
class Writing:
    """A writer that is ready: ``write`` for the engine, the file that it has read, and what it has cost (metrics)."""

    write: Any
    file: FileWriter | None = None
    account: Callable[[], dict[str, float]] = dict
    fails_for_now: bool = False
    """Whether a picture that got nothing may get something later, at no other cost than asking."""


def reference_writer(params: CollectReferences, runtime: Runtime, origins: Mapping[str, str]) -> Writing:
    """The writer that the parameters name; a file is read here, whole.

    Raises :class:`CollectError` for an unusable file, ``Mismatch`` for a language model that cannot be asked as told.
    """
    if params.writer.name == "file":
        return _from_file(file_references(Path(params.path), params.writer.encoding, origins))
    if params.writer.name == "llm":
        from balcap.collect.llm import make_writer  # its client is needed by nobody else

        told = params.writer.instruction.name == "record"
        read = file_instructions(Path(params.path), "utf-8", origins) if told else None
        writer = make_writer(params.writer, runtime, read)
        return Writing(writer, read, writer.account, fails_for_now=True)
    return Writing(each(partial(_scene_reference, seed=params.writer.seed)))


def question_writer(params: CollectQuestions, origins: Mapping[str, str]) -> Writing:
    """As :func:`reference_writer`, for at most ``per_image`` questions per picture, or for all if they are curated."""
    limit = sys.maxsize if params.curated else params.per_image
    if params.writer.name == "file":
        return _from_file(file_questions(Path(params.path), params.writer.encoding, origins, limit))
    return Writing(each(partial(_scene_questions, seed=params.writer.seed, limit=limit)))


def _from_file(read: FileWriter) -> Writing:
    return Writing(each(read), read)


def _scene_reference(sample: Sample, seed: int) -> list[Any]:
    from balcap.collect.scenes import write_reference

    _needs_scene(sample)
    return [write_reference(sample, seed)]


def _scene_questions(sample: Sample, seed: int, limit: int) -> list[Any]:
    from balcap.collect.scenes import write_questions

    _needs_scene(sample)
    return write_questions(sample, seed, limit)


def _needs_scene(sample: Sample) -> None:
    if "scene" not in sample.meta:
        raise CollectError(
            f"writer `scenes` knows only the embedded world, and {sample.image_id} (source {sample.source}) is no "
            "picture of it; use writer `file` with a captions file"
        )
