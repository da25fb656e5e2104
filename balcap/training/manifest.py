"""What tells a checkpoint from a damaged one: ``manifest.json``, written last, with the sha256 of every other file.

    found = newest(work)       # the newest checkpoint that is as it was written, or None

Light: nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from balcap.files import write_json
from balcap.training.stopping import Ended

MANIFEST = "manifest.json"
THREADS = 4
"""Files hashed at once; hashing does not hold the interpreter's lock."""


class CheckpointError(Ended):
    """A checkpoint that is whole but of no use here; the message says why and what to do."""


def checkpoints(work: Path) -> list[Path]:
    """Folders of checkpoints in order of their step."""
    return sorted(work.glob("checkpoint-*"), key=step)


def step(checkpoint: Path) -> int:
    """The update after which it was written."""
    return int(checkpoint.name.partition("-")[2])


def files(folder: Path) -> list[str]:
    """Relative names of all files but the manifest, in order."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != MANIFEST)


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of files of ``folder`` by relative name."""
    names = list(names)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _sha256(folder / name), names), strict=True))


def write(folder: Path, setting: dict[str, Any], digests: dict[str, str]) -> None:
    """The manifest of a finished folder; ``setting`` is what it can be read with (:func:`check_setting`)."""
    write_json(folder / MANIFEST, {"setting": setting, "sha256": digests})


def newest(work: Path) -> Path | None:
    """The newest checkpoint that is as it was written; damaged ones are passed over with a warning."""
    for folder in reversed(checkpoints(work)):
        if fault := damage(folder):
            print(f"warning: {folder} is damaged and not used: {fault}", file=sys.stderr, flush=True)
        else:
            return folder
    return None


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; ``None`` if every file is as it was written."""
    try:
        expected = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    present = files(folder)
    if odd := sorted(set(expected) ^ set(present)):
        return f"{odd[0]} is {'missing' if odd[0] in expected else 'not in ' + MANIFEST}"
    found = hashes(folder, present)
    changed = [name for name in present if found[name] != expected[name]]
    return f"{changed[0]} has another sha256 than {MANIFEST} says" if changed else None


def check_setting(folder: Path, setting: dict[str, Any]) -> None:
    """Raise :class:`CheckpointError` if a checkpoint was written with another ``setting``."""
    written = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["setting"]
    if other := [name for name in setting if written.get(name) != setting[name]]:
        was, wanted = ({name: some.get(name) for name in other} for some in (written, setting))
        raise CheckpointError(
            f"{folder} was written with {was}, and runtime.launch says {wanted}: set it back to go on from there, "
            "or delete the folder to start anew"
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
