"""The shared types as parquet: fixed schemas, sorted rows, complete files, so that equal content is equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from balcap.files import atomic_path
from balcap.records import Question, Reference, Sample

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("license", pa.string()),
        ("meta", pa.string()),
    ]
)
REFERENCES = pa.schema(
    [
        ("image_id", pa.string()),
        ("caption", pa.string()),
        ("units", pa.list_(pa.string())),
        ("writer", pa.string()),
        ("prompt_sha256", pa.string()),
    ]
)
QUESTIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("question", pa.string()),
        ("options", pa.list_(pa.string())),
        ("answer", pa.int32()),
        ("accuracy_with_image", pa.float64()),
        ("accuracy_without_image", pa.float64()),
    ]
)


def write_table(path: Path | str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows in the order given under a fixed schema; the file appears complete or not at all."""
    with atomic_path(path) as tmp:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), tmp, compression="zstd")


def read_samples(folder: Path | str, split: str | None = None) -> Iterator[Sample]:
    """Pictures of ``data/images`` in order of ``image_id`` (per split), one shard in memory at a time."""
    for shard in sorted(Path(folder).glob(f"{split or '*'}-*.parquet")):
        for row in pq.read_table(shard).to_pylist():
            yield Sample(
                row["image_id"], row["image"], row["split"], row["source"], row["license"], json.loads(row["meta"])
            )


def write_references(path: Path | str, references: Iterable[Reference]) -> None:
    """Write references sorted by ``image_id``."""
    rows = [
        {
            "image_id": r.image_id,
            "caption": r.caption,
            "units": list(r.units),
            "writer": r.writer,
            "prompt_sha256": r.prompt_sha256,
        }
        for r in sorted(references, key=lambda r: r.image_id)
    ]
    write_table(path, rows, REFERENCES)


def read_references(path: Path | str) -> dict[str, Reference]:
    """References by ``image_id``."""
    return {
        row["image_id"]: Reference(
            row["image_id"], row["caption"], tuple(row["units"]), row["writer"], row["prompt_sha256"]
        )
        for row in pq.read_table(path).to_pylist()
    }


def write_questions(path: Path | str, questions: Iterable[Question]) -> None:
    """Write questions sorted by ``image_id``, in the given order within a picture."""
    rows = [
        {
            "image_id": q.image_id,
            "question": q.question,
            "options": list(q.options),
            "answer": q.answer,
            "accuracy_with_image": q.accuracy_with_image,
            "accuracy_without_image": q.accuracy_without_image,
        }
        for q in sorted(questions, key=lambda q: q.image_id)
    ]
    write_table(path, rows, QUESTIONS)


def read_questions(path: Path | str) -> dict[str, tuple[Question, ...]]:
    """Questions by ``image_id``; pictures without questions are absent."""
    found: dict[str, list[Question]] = {}
    for row in pq.read_table(path).to_pylist():
        question = Question(
            row["image_id"],
            row["question"],
            tuple(row["options"]),
            row["answer"],
            row["accuracy_with_image"],
            row["accuracy_without_image"],
        )
        found.setdefault(question.image_id, []).append(question)
    return {image_id: tuple(rows) for image_id, rows in found.items()}
