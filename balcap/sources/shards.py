"""The tables of `prepare`: shards of pictures, manifest, rejects. Fixed schemas, sorted rows.

data/images/SPLIT-NNNNN.parquet   balcap.records_io.IMAGES, ``shard_size`` rows by `image_id`
data/manifest.parquet             MANIFEST by `image_id`; `width` and `height` before resizing
data/rejects.parquet              REJECTS by `origin`; reasons are those of `balcap.images`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from balcap.records_io import IMAGES
from balcap.sources.spill import Spill

SPLITS = ("eval", "train")
TEXT, NUMBER = pa.string(), pa.int32()
MANIFEST = pa.schema(
    [
        ("image_id", TEXT),
        ("split", TEXT),
        ("origin", TEXT),
        ("source", TEXT),
        ("author", TEXT),
        ("license", TEXT),
        ("width", NUMBER),
        ("height", NUMBER),
        ("stored_width", NUMBER),
        ("stored_height", NUMBER),
        ("bytes", pa.int64()),
        ("phash", TEXT),
        ("shard", TEXT),
    ]
)
REJECTS = pa.schema([("origin", TEXT), ("reason", TEXT), ("detail", TEXT)])
GROUP = 4_000_000
"""Bytes in memory at a time, about."""


def write_shards(folder: Path, spill: Spill, shard_size: int) -> None:
    """``folder`` with the shards of both splits."""
    folder.mkdir()
    for split in SPLITS:
        rows = (_stored(facts, spill) for facts in spill.pictures(split))
        for number, first in enumerate(rows):
            _write(folder / shard_name(split, number), chain([first], islice(rows, shard_size - 1)), IMAGES)


def write_manifest(path: Path, spill: Spill, shard_size: int) -> None:
    """One row per picture, with the shard that holds it."""
    _write(path, _in_shards(spill.pictures(), shard_size), MANIFEST)


def write_rejects(path: Path, spill: Spill) -> None:
    """One row per refused file."""
    _write(path, spill.rejects(), REJECTS)


def shard_name(split: str, number: int) -> str:
    """``train-00000.parquet``"""
    return f"{split}-{number:05}.parquet"


def _stored(facts: dict[str, Any], spill: Spill) -> dict[str, Any]:
    return facts | {"image": spill.image(facts), "width": facts["stored_width"], "height": facts["stored_height"]}


def _in_shards(pictures: Iterable[dict[str, Any]], shard_size: int) -> Iterator[dict[str, Any]]:
    seen: Counter[str] = Counter()
    for facts in pictures:
        yield facts | {"shard": shard_name(facts["split"], seen[facts["split"]] // shard_size)}
        seen[facts["split"]] += 1


def _write(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Stream rows into a parquet file; encoded images are neither compressed again nor put into dictionaries."""
    texts = [name for name in schema.names if name != "image"]
    compression = {name: "zstd" if name != "image" else "none" for name in schema.names}
    with pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=texts, write_statistics=texts
    ) as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group, size = [], 0
    for row in rows:
        group.append(row)
        size += len(row.get("image", b"")) + 1000
        if size >= GROUP:
            yield group
            group, size = [], 0
    if group:
        yield group
