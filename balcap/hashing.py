"""Identity of images, and the content hashes that DVC writes into ``dvc.lock`` (md5 of a file, ``.dir`` of a folder).

image_id = sha256(width as u32 LE || height as u32 LE || oriented RGB bytes, before any resizing)
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path


def image_id(width: int, height: int, rgb: bytes) -> str:
    """Identity of a picture: sha256 of its size and its oriented RGB bytes (``len(rgb) == 3 * width * height``)."""
    if len(rgb) != 3 * width * height:
        raise ValueError(f"{len(rgb)} bytes are not the RGB bytes of {width} x {height} pixels")
    digest = hashlib.sha256(struct.pack("<II", width, height))
    digest.update(rgb)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """sha256 of a text's UTF-8 bytes, as hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_md5(path: Path | str) -> str:
    """md5 of a file's bytes, as DVC records it for a file."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "md5").hexdigest()


IGNORED_FOLDERS = {"__pycache__"}
IGNORED_FILES = {".DS_Store"}
PINNED = {("judge", "prompts"), ("collect", "prompts")}
"""Folders of prompts, as in ``.dvcignore``: a stage depends on the hashes that its parameters pin, and no others."""


def dir_md5(path: Path | str) -> str:
    """DVC's hash of a folder: md5 of the JSON list of ``{md5, relpath}``, with ``.dir`` appended.

    Leaves out what ``.dvcignore`` leaves out (caches, temporary siblings).
    """
    root = Path(path)
    rows = [
        {"md5": file_md5(f), "relpath": f.relative_to(root).as_posix()}
        for f in root.rglob("*")
        if f.is_file() and not _ignored(f.relative_to(root)) and f.parent.parts[-2:] not in PINNED
    ]
    rows.sort(key=lambda row: row["relpath"])
    return hashlib.md5(json.dumps(rows).encode()).hexdigest() + ".dir"


def _ignored(rel: Path) -> bool:
    if IGNORED_FOLDERS & set(rel.parts) or rel.name in IGNORED_FILES or rel.suffix == ".pyc":
        return True
    return any(part.startswith(".") and ".tmp-" in part for part in rel.parts)


def content_md5(path: Path | str) -> str:
    """DVC's hash of a file or folder; raises ``FileNotFoundError`` naming what is missing."""
    path = Path(path)
    if path.is_dir():
        return dir_md5(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    return file_md5(path)
