"""Who made the pictures of a folder: JSONL, CSV or parquet with `image`, `author`, `source`, `license`.

`image` is relative to the file itself; the other columns are optional, an empty cell means unknown.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from balcap.sources.base import SourceError

COLUMNS = ("image", "author", "source", "license")
TEXTS = pa.schema([(name, pa.string()) for name in COLUMNS])


@dataclass(frozen=True, slots=True)
class Credit:
    """What the file says of one picture; "" is unknown."""

    author: str
    source: str
    license: str


def read_attribution(folder: Path, name: str) -> dict[str, Credit]:
    """Path relative to ``folder`` -> credit, the first row of an image; all rows are in memory.

    Raises :class:`SourceError` naming the file and, where known, the row.
    """
    path = folder / name
    if not path.is_file():
        raise SourceError(f"{path}: no such file; set prepare.source.attribution to a file of the folder, or to null")
    try:
        table = _read(path)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise SourceError(f"{path}: {str(error).splitlines()[0]}") from None
    if "image" not in table.column_names:
        raise SourceError(f"{path}: no column `image`; found: {', '.join(table.column_names) or 'none'}")
    credits: dict[str, Credit] = {}
    for row in table.select([c for c in COLUMNS if c in table.column_names]).to_pylist():
        image = posixpath.normpath(posixpath.join(posixpath.dirname(name), row["image"] or ""))
        credits.setdefault(image, Credit(*(row.get(c) or "" for c in COLUMNS[1:])))
    return credits


def _read(path: Path) -> pa.Table:
    """The file's table, its four columns as texts; raises ``SourceError`` for an unknown suffix."""
    if path.suffix == ".jsonl":
        options = pa.json.ParseOptions(explicit_schema=TEXTS, unexpected_field_behavior="ignore")
        return pa.json.read_json(path, parse_options=options)
    if path.suffix == ".csv":
        return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=TEXTS))
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        known = pa.schema([TEXTS.field(f.name) if f.name in COLUMNS else f for f in table.schema])
        return table.cast(known)
    raise SourceError(f"{path}: an attribution file is .jsonl, .csv or .parquet")
