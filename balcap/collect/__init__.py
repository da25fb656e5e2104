"""Reference and question collection: writers by name, and the engine that runs them resumably.

A writer is called with one sample and returns its records, or raises ``Unwritten``. One file per writer: `scenes`
(the imperfect teacher of the embedded world) and `file` (what people wrote). Every reference carries the hash of how it
was made (``prompt_sha256``): of the prompt for a language model, else of the writer's own description with its version.
All questions are written first, then curated by how well they are answered with and without the picture (`curate.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from balcap.collect.engine import (
    QUESTIONS,
    REFERENCES,
    Collected,
    Unwritten,
    check_failures,
    collect,
    read_origins,
    write_failures,
)
from balcap.collect.file import FileWriter, file_questions, file_references
from balcap.collect.file import report_problems as _report
from balcap.collect.rows import CollectError
from balcap.params.collect import CollectQuestions, CollectReferences
from balcap.records import Sample

__all__ = [
    "QUESTIONS",
    "REFERENCES",
    "CollectError",
    "Collected",
    "Unwritten",
    "check_failures",
    "collect",
    "question_writer",
    "read_origins",
    "reference_writer",
    "report_problems",
    "write_failures",
]

Writer = Callable[[Sample], list[Any]]


def reference_writer(params: CollectReferences, origins: Mapping[str, str]) -> Writer:
    """The writer that the parameters name; `file` reads all of its file here and raises :class:`CollectError`."""
    if params.writer.name == "file":
        return file_references(Path(params.path), params.writer.encoding, origins)
    return partial(_scene_reference, seed=params.writer.seed)


def question_writer(params: CollectQuestions, origins: Mapping[str, str]) -> Writer:
    """As :func:`reference_writer`, for at most ``per_image`` questions per picture, or for all if they are curated."""
    limit = sys.maxsize if params.curated else params.per_image
    if params.writer.name == "file":
        return file_questions(Path(params.path), params.writer.encoding, origins, limit)
    return partial(_scene_questions, seed=params.writer.seed, limit=limit)


def report_problems(writer: Writer, work: Path) -> int:
    """Print and store what a file writer could not use; returns the number of lines (0 for other writers)."""
    return _report(writer, work / "problems.parquet") if isinstance(writer, FileWriter) else 0


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
