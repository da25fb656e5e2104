"""Rows of a file that people wrote: JSON, JSONL, CSV or parquet, with the number of the line that each came from.

    for line, row in read_rows(Path("captions.jsonl"), "utf-8"): ...      # row: a dict, or why there is none

A line that cannot be read is a :class:`Broken` row and the next line is tried; a file that cannot be read at all is a
:class:`CollectError` that names file, line and fix.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class CollectError(ValueError):
    """A fault of the collected data that stops the stage; the message names the file, the line and the fix."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that holds no row, and why."""

    reason: str


Row = dict[str, Any] | Broken
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_rows(path: Path, encoding: str, needs: tuple[str, ...] = ()) -> Iterator[tuple[int, Row]]:
    """Yield (line number from 1, row) by the file's suffix; for JSON (one list of records) and parquet, of the row.

    ``needs`` are the columns that a table (CSV, parquet) must have. Raises :class:`CollectError` on the first row if
    the file is missing, of another kind, in another encoding, or lacks a column.
    """
    if not path.is_file():
        raise CollectError(f"{path}: no such file; a captions or questions file is .json, .jsonl, .csv or .parquet")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _jsonl(decode_text(path, encoding))
    elif suffix == ".json":
        yield from _json(path, decode_text(path, encoding))
    elif suffix == ".csv":
        yield from _csv(path, decode_text(path, encoding), needs)
    elif suffix == ".parquet":
        yield from _parquet(path, needs)
    else:
        raise CollectError(
            f"{path}: cannot tell the format of {suffix or 'no suffix'!r}; allowed: .json, .jsonl, .csv, .parquet"
        )


def where(path: Path, *numbers: int) -> str:
    """The place of rows, for people: ``line 7``, or ``record 7`` where rows are not lines."""
    word = "record" if path.suffix.lower() in (".json", ".parquet") else "line"
    return f"{word} {', '.join(map(str, numbers))}"


def decode_text(path: Path, encoding: str) -> str:
    """The file's text; raises :class:`CollectError` where bytes and declared encoding disagree.

    One wrong byte stops the file: an encoding is a property of the whole, and half-read captions would be garbled.
    """
    data = path.read_bytes()
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    fix = "set writer.encoding to the file's encoding (utf-8, utf-8-sig, utf-16, latin-1 or cp1252) or convert the file"
    if marked is not None and marked != encoding:
        raise CollectError(
            f"{path}, line 1: has the byte-order mark of {marked}, not {encoding}; set writer.encoding: {marked}"
        )
    if encoding == "utf-16" and data and marked is None:
        raise CollectError(f"{path}, line 1: no byte-order mark, so this is not utf-16; {fix}")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CollectError(f"{path}, line {line}: byte {data[error.start]:#04x} is not {encoding}; {fix}") from None
    if encoding in ("latin-1", "cp1252") and not data.isascii() and _is_utf8(data):
        raise CollectError(f"{path}: is utf-8, which {encoding} would garble; set writer.encoding: utf-8")
    return text


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _jsonl(text: str) -> Iterator[tuple[int, Row]]:
    # not splitlines(): U+2028 and friends are ordinary characters inside a JSON string
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
            yield number, Broken(f"not JSON ({getattr(error, 'msg', type(error).__name__)})")
        else:
            yield number, row if isinstance(row, dict) else Broken("not a JSON object {...}")


def _json(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    """The records of one list; what stops it is wrong with the whole file."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deep
        line, reason = getattr(error, "lineno", 1), getattr(error, "msg", type(error).__name__)
        raise CollectError(f"{path}, line {line}: not JSON ({reason}); one object per line is .jsonl") from None
    if not isinstance(rows, list):
        raise CollectError(f"{path}: holds no list of records [{{...}}, ...] but {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else Broken("not a JSON object {...}")


def _csv(path: Path, text: str, needs: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if header is None:
                raise CollectError(
                    f'{path}, line {start}: not a CSV header ({error}); quote cells with "..."'
                ) from None
            yield start, Broken(f"not CSV ({error})")
            continue
        if header is None:
            header = _columns(path, cells, needs)
        elif len(cells) == len(header):
            yield start, dict(zip(header, cells, strict=True))
        elif cells:
            yield start, Broken(f"{len(cells)} cells under {len(header)} columns")
    if header is None:
        _columns(path, [], needs)


def _parquet(path: Path, needs: tuple[str, ...]) -> Iterator[tuple[int, Row]]:
    try:
        with pq.ParquetFile(path) as file:
            _columns(path, file.schema_arrow.names, needs)
            batches = file.iter_batches(batch_size=10_000)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CollectError(f"{path}: not a readable parquet file ({reason}); write it again") from None


def _columns(path: Path, found: list[str], needs: tuple[str, ...]) -> list[str]:
    missing = [name for name in needs if name not in found]
    if missing:
        raise CollectError(f"{path}, line 1: no column {', '.join(missing)}; found: {', '.join(found) or 'none'}")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise CollectError(f"{path}, line 1: column {', '.join(twice)} stands there twice; name each once")
    return found
