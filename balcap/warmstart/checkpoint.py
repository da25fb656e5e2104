"""Method ``checkpoint``: a local directory, pinned by the hash of its weights, copied as it is but for one word.

sha256sum *.safetensors | sha256sum        the value of ``warmstart.method.sha256``

The word is a float16 in ``config.json`` (LLaVA's has it): vLLM would write captions in it, and nothing here trains in
it. It becomes bfloat16; weights stay as they are, every reader names the type that it wants.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from balcap.files import atomic_path, write_json
from balcap.params.warmstart import CheckpointMethod, Warmstart
from balcap.policy.folder import NOTE, PolicyError, check_folder, read_note, weights_sha256, write_note
from balcap.warmstart import WarmstartError

KEPT = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""What belongs to a captioner: weights, configuration, tokenizer. Code, pictures and training leftovers do not."""


def adopt(params: Warmstart, method: CheckpointMethod, out: Path) -> None:
    """Verify the checkpoint at ``params.path`` and copy it to ``out`` with a ``balcap.json`` of its own.

    Raises :class:`WarmstartError` if it is missing, unsafe to read, or not the one that the recipe pins.
    """
    source = Path(params.path)
    if not source.is_dir():
        raise WarmstartError(f"warmstart.path = {params.path}: no such directory")
    try:
        check_folder(source)
        found = weights_sha256(source)
        lowers = (source / NOTE).exists() and read_note(source)["restore_capitals"]
    except PolicyError as error:
        raise WarmstartError(f"warmstart.path: {error}") from None
    if found != method.sha256:
        raise WarmstartError(
            f"warmstart.path = {params.path}: its weights have sha256 {found}, the recipe pins {method.sha256}; "
            "fetch the pinned weights, or set warmstart.method.sha256 to the first value if these are meant"
        )
    with atomic_path(out) as folder:
        folder.mkdir()
        for file in sorted(source.iterdir()):
            if file.is_file() and file.suffix in KEPT:
                shutil.copyfile(file, folder / file.name)
        _without_float16(folder / "config.json")
        write_note(folder, params.prompt, lowers, params.max_new_tokens)


def _without_float16(file: Path) -> None:
    before = json.loads(file.read_text(encoding="utf-8"))
    if (after := _bfloat16(before)) != before:
        write_json(file, after)


def _bfloat16(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` with bfloat16 where it names float16, for the whole or one of its models."""
    changed: dict[str, Any] = {key: _bfloat16(value) for key, value in config.items() if isinstance(value, dict)}
    changed |= {key: "bfloat16" for key in ("dtype", "torch_dtype") if config.get(key) == "float16"}
    return config | changed
