"""Writer `file`: references and questions that people (or another system) wrote, read from one file.

    captions       image, caption, optional units (a list of texts; in CSV a JSON list)
    questions      image, question, options (a list of two or more texts), answer (one of the options, or its index),
                   optional accuracy_with_image, accuracy_without_image (in [0, 1]; absent = unknown)
    instructions   image, instruction: what the writer `llm` is asked about this picture

In JSON, records in ShareGPT4V's form (``conversations.py``) hold a caption and an instruction each.

`image` is a path relative to the file itself. The manifest names a picture by its path relative to `prepare.path`
(`origin`), which this stage does not know, so the file says it: resolved against its own folder, every `image` is
ROOT/origin with one and the same ROOT. The ROOT under which most images are found in the manifest is taken (of two
with equally many, the one with the longer origins).

A line that cannot be used is a :class:`Problem` with its number, never an end: its picture may have another line, and
a picture left without one is counted by the engine. Of several captions of one picture the first usable one counts. A
questions file without any row says that there are no questions.
"""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from balcap.collect.conversations import flat
from balcap.collect.engine import Unwritten
from balcap.collect.rows import Broken, CollectError, Row, read_rows, where
from balcap.collect.texts import text_in, texts_in
from balcap.collect.units import VERSION as UNITS_VERSION
from balcap.collect.units import split_units
from balcap.hashing import sha256_text
from balcap.records import Question, Reference, Sample
from balcap.records_io import write_table

WRITER = "file"
PROMPT_SHA256 = sha256_text(f"file 1: the caption as it stands in the file, units as given or by {UNITS_VERSION}")
"""Identity of how these references were made: a writer without a prompt hashes a description with its version."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was not used, and why; ``image`` as the line names it, or ``""``."""

    line: int
    image: str
    reason: str


PROBLEMS = pa.schema([("line", pa.int64()), ("image", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class FileWriter:
    """The records of a file by ``image_id``, and what was wrong with the rest. Call it with a sample."""

    path: Path
    records: Mapping[str, list[Any]]
    problems: list[Problem]
    missing: Mapping[str, str]
    """Why a picture that the file names has no record, by ``image_id``."""

    def __call__(self, sample: Sample) -> list[Any]:
        """The picture's records; raises :class:`Unwritten` with the line at fault, or if no line names it."""
        if sample.image_id not in self.records:
            raise Unwritten(f"{self.path}: {self.missing.get(sample.image_id) or self._unnamed()}")
        return self.records[sample.image_id]

    def _unnamed(self) -> str:
        unreadable = [problem.line for problem in self.problems if not problem.image][:5]
        return "no line names this picture" + (f"; not readable: {where(self.path, *unreadable)}" if unreadable else "")


def file_references(path: Path, encoding: str, origins: Mapping[str, str]) -> FileWriter:
    """One reference per picture of a captions file. Raises :class:`CollectError` if the file as a whole is unusable."""

    def record(image_id: str, row: dict[str, Any]) -> Reference:
        caption = text_in(row, "caption")
        return Reference(image_id, caption, _units(row) or split_units(caption), WRITER, PROMPT_SHA256)

    return _read(path, encoding, origins, ("image", "caption"), record, lambda _: "", 1)


def file_questions(path: Path, encoding: str, origins: Mapping[str, str], limit: int) -> FileWriter:
    """At most ``limit`` questions per picture, in the file's order; a file may hold none at all.

    Raises as :func:`file_references`.
    """
    needs = ("image", "question", "options", "answer")
    return _read(path, encoding, origins, needs, _question, lambda asked: asked.question, limit, may_be_empty=True)


def file_instructions(path: Path, encoding: str, origins: Mapping[str, str]) -> FileWriter:
    """One instruction (a text) per picture of a file. Raises as :func:`file_references`."""
    return _read(
        path, encoding, origins, ("image", "instruction"), lambda _, row: text_in(row, "instruction"), lambda _: "", 1
    )


def _read(
    path: Path,
    encoding: str,
    origins: Mapping[str, str],
    needs: tuple[str, ...],
    record: Callable[[str, dict[str, Any]], T],
    same: Callable[[T], str],
    limit: int,
    may_be_empty: bool = False,
) -> FileWriter:
    """Read all lines; of two records of a picture that are the ``same``, the first counts."""
    problems: list[Problem] = []
    rows = list(_rows_with_image(read_rows(path, encoding, needs), problems))
    found = match_images({image for _, image, _ in rows}, path, origins)
    records: dict[str, list[T]] = {}
    lines: dict[tuple[str, str], int] = {}
    missing: dict[str, str] = {}
    for line, image, row in rows:
        try:
            if image not in found:
                raise ValueError("no such picture in data/manifest.parquet (a wrong path, or see data/rejects.parquet)")
            new = record(found[image], flat(row))
            first = lines.setdefault((found[image], same(new)), line)
            if first != line:
                raise ValueError(f"a second one for this picture; {where(path, first)} is used")
        except ValueError as error:
            problems.append(Problem(line, image, str(error)))
            missing.setdefault(found.get(image, ""), f"{where(path, line)}: {error}")
        else:
            records.setdefault(found[image], []).append(new)
    problems.sort(key=lambda problem: problem.line)
    if not records and (problems or not may_be_empty):
        raise CollectError("\n".join([f"{path}: no line can be used", *describe(path, problems)]))
    return FileWriter(path, {image_id: kept[:limit] for image_id, kept in records.items()}, problems, missing)


def _rows_with_image(
    rows: Iterable[tuple[int, Row]], problems: list[Problem]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line, image, row) of the rows that name an image; the others become problems."""
    for line, row in rows:
        try:
            if isinstance(row, Broken):
                raise ValueError(row.reason)
            yield line, text_in(row, "image"), row
        except ValueError as error:
            problems.append(Problem(line, "", str(error)))


def match_images(images: Collection[str], path: Path, origins: Mapping[str, str]) -> dict[str, str]:
    """``image`` as written in the file at ``path`` -> ``image_id``, for those that the manifest holds."""
    ids = {origin: image_id for image_id, origin in origins.items()}
    folder = path.parent.as_posix()
    resolved = {image: posixpath.normpath(posixpath.join(folder, image)) for image in images}
    votes = Counter(root for full in resolved.values() for root, rest in _cuts(full) if rest in ids)
    if not votes:
        return {}
    best = min(votes, key=lambda root: (-votes[root], len(root), root))
    return {
        image: ids[rest]
        for image, full in resolved.items()
        for root, rest in _cuts(full)
        if root == best and rest in ids
    }


def _cuts(full: str) -> Iterator[tuple[str, str]]:
    """Every way to read a path as (root, path below it): ``a/b/c`` -> ("", a/b/c), (a, b/c), (a/b, c)."""
    parts = full.split("/")
    for i in range(len(parts)):
        yield "/".join(parts[:i]), "/".join(parts[i:])


def describe(path: Path, problems: list[Problem], limit: int = 5) -> list[str]:
    """Lines for a person: how many lines were not used, the first few with the reason."""
    if not problems:
        return []
    shown = [f"  {where(path, p.line)}{f' ({p.image})' if p.image else ''}: {p.reason}" for p in problems[:limit]]
    more = [f"  and {len(problems) - limit} more"] if len(problems) > limit else []
    return [f"{path}: {len(problems)} line(s) not used", *shown, *more]


def report_problems(writer: FileWriter, table: Path) -> int:
    """Print the problems as one warning, write all of them to ``table``; returns their number."""
    rows = [{"line": p.line, "image": p.image, "reason": p.reason} for p in writer.problems]
    write_table(table, rows, PROBLEMS)
    if rows:
        print("warning: " + "\n".join(describe(writer.path, writer.problems)), flush=True)
    return len(rows)


def _units(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts_in(row, "units")))


def _question(image_id: str, row: dict[str, Any]) -> Question:
    options = texts_in(row, "options")
    if len(options) < 2 or len(set(options)) < len(options):
        raise ValueError(f"options must be two or more different texts, found {len(options)}: {options!a}")
    return Question(
        image_id,
        text_in(row, "question"),
        tuple(options),
        _answer(row.get("answer"), options),
        _accuracy(row, "accuracy_with_image"),
        _accuracy(row, "accuracy_without_image"),
    )


def _answer(value: Any, options: list[str]) -> int:
    """Index of the right option: a text that is one of them, else an index from 0 (in CSV as digits)."""
    if isinstance(value, str) and value.strip() in options:
        return options.index(value.strip())
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    raise ValueError(f"answer {value!a} is neither one of the options nor an index from 0 to {len(options) - 1}")


def _accuracy(row: Mapping[str, Any], key: str) -> float:
    """A share in [0, 1], or NaN = unknown if absent."""
    value = row.get(key)
    if value is None or value == "":
        return math.nan
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not (0.0 <= share <= 1.0 or math.isnan(share)):
        raise ValueError(f"{key} {value!a} is not a share from 0 to 1")
    return share
