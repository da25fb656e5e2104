"""Image files of a folder, recursively, in the order of their names.

Every file is a candidate, whatever its suffix, except hidden ones and those that only describe (``DESCRIBES``:
captions, attributions, notes). What must not be opened is listed too, and refuses itself when it is loaded: links that
lead out of the folder, pipes, sockets, devices. A link inside the folder to one of its files is read (and found a
duplicate); links to folders of it are passed over, their files being listed where they lie.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from balcap.images import Rejected, check_bytes
from balcap.params.prepare import FolderSource, Limits, Prepare
from balcap.sources.attribution import Credit, read_attribution
from balcap.sources.base import RawImage, SourceError

DESCRIBES = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".md", ".txt", ".yaml", ".yml", ".dvc"}
NOTES = {"LICENSE", "NOTICE", "README", "Thumbs.db", "desktop.ini"}
UNKNOWN = "unknown"


def folder(params: Prepare) -> Iterator[RawImage]:
    """The candidates below ``params.path``; raises :class:`SourceError` for what concerns the folder as a whole."""
    source = params.source
    assert isinstance(source, FolderSource)
    if not os.path.isdir(params.path):
        raise SourceError(f"prepare.path: {params.path} is not a folder")
    credits = read_attribution(Path(params.path), source.attribution) if source.attribution else {}
    default = Credit(UNKNOWN, params.path, source.license)
    root = os.path.realpath(params.path)
    used = 0
    for name in _names(root, ""):
        origin = os.fsencode(name).decode("utf-8", "backslashreplace")  # valid text also where the name is not
        credit = credits.get(origin, default)
        used += origin in credits
        yield RawImage(
            origin,
            partial(load, root, name, params.limits),
            credit.source or default.source,
            credit.author or default.author,
            credit.license or default.license,
        )
    if credits and not used:
        raise SourceError(
            f"{params.path}/{source.attribution}: none of its {len(credits)} images is in the folder (the first is "
            f"{next(iter(credits))!r}); `image` must be the path relative to the file"
        )


def load(root: str, name: str, limits: Limits) -> bytes:
    """The bytes of ``root/name``; raises :class:`Rejected` before opening what must not be read, else ``OSError``."""
    path = os.path.join(root, name)
    if os.path.islink(path):
        path = os.path.realpath(path)
        if not _inside(path, root):
            raise Rejected("link_outside", f"leads to {os.readlink(os.path.join(root, name))}")
        if not os.path.exists(path):
            raise Rejected("broken_link", f"leads to {os.readlink(os.path.join(root, name))}")
    facts = os.stat(path)
    kind = KINDS.get(stat.S_IFMT(facts.st_mode))
    if kind is not None:
        raise Rejected(*kind)
    check_bytes(facts.st_size, limits)
    with open(path, "rb") as file:
        return file.read()


KINDS = {
    stat.S_IFIFO: ("special_file", "a pipe"),
    stat.S_IFSOCK: ("special_file", "a socket"),
    stat.S_IFCHR: ("special_file", "a character device"),
    stat.S_IFBLK: ("special_file", "a block device"),
    stat.S_IFDIR: ("unreadable", "a folder that cannot be listed"),
}
"""What is no regular file, with reason and detail."""


def _names(root: str, below: str) -> Iterator[str]:
    """Paths relative to ``root`` of what ``load`` reads or refuses, sorted by name within each folder."""
    try:
        with os.scandir(os.path.join(root, below)) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError:
        yield below or "."
        return
    for entry in entries:
        name = os.path.join(below, entry.name)
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _names(root, name)
        elif entry.is_symlink() and os.path.isdir(entry.path) and _inside(entry.path, root):
            continue
        elif os.path.splitext(entry.name)[1].lower() not in DESCRIBES and entry.name not in NOTES:
            yield name


def _inside(path: str, root: str) -> bool:
    return f"{os.path.realpath(path)}{os.sep}".startswith(root + os.sep)
