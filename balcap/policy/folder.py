"""What a captioner folder is, without reading its weights: safe formats only, one hash, how the captioner is asked.

    check_folder(path)            # PolicyError unless safetensors, and nothing pickled
    weights_sha256(path)

Light: registration and the warm start's checkpoints need no torch for this.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from balcap.files import write_json

NOTE = "balcap.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz", ".h5", ".msgpack")
"""Weights in formats that can run code or that nobody here wrote; only safetensors is read."""


class PolicyError(ValueError):
    """A folder that cannot be used as a captioner; the message names folder, reason and remedy."""


def write_note(folder: Path, prompt: str, restore_capitals: bool, max_new_tokens: int) -> None:
    """Write ``balcap.json``: how this captioner is asked."""
    note = {"prompt": prompt, "restore_capitals": restore_capitals, "max_new_tokens": max_new_tokens}
    write_json(folder / NOTE, note)


def check_folder(path: Path) -> None:
    """Raise :class:`PolicyError` unless ``path`` is a transformers folder with safetensors and no pickled weights."""
    if not (path / "config.json").is_file():
        raise PolicyError(f"{path}: not a captioner folder (no config.json in it)")
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in PICKLED)
    if pickled:
        raise PolicyError(
            f"{path}: {', '.join(pickled)}: only safetensors are read, other formats can run code; "
            "convert the weights to safetensors and delete these files"
        )
    if not any(path.glob("*.safetensors")):
        raise PolicyError(f"{path}: no *.safetensors in it")


def weights_sha256(path: Path | str) -> str:
    """One hash of all weights of a folder, independent of where it lies.

    The sha256 of the lines ``HASH  NAME``, sorted by name, that ``sha256sum *.safetensors`` prints.
    """
    lines = []
    for weights in sorted(Path(path).glob("*.safetensors"), key=lambda p: p.name):
        with weights.open("rb") as f:
            lines.append(f"{hashlib.file_digest(f, 'sha256').hexdigest()}  {weights.name}\n")
    if not lines:
        raise PolicyError(f"{path}: no *.safetensors in it")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_note(path: Path) -> dict[str, Any]:
    """What ``balcap.json`` says; raises :class:`PolicyError` if it is missing or says anything else."""
    file = path / NOTE
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        kinds = {"prompt": str, "restore_capitals": bool, "max_new_tokens": int}
        if set(note) == set(kinds) and all(type(note[key]) is kind for key, kind in kinds.items()):
            return note
        reason = f"needs exactly {', '.join(kinds)}"
    except FileNotFoundError:
        reason = "missing; the warm start writes it"
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        reason = f"not valid: {error}"
    raise PolicyError(f"{file}: {reason}")
