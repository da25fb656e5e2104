"""Method ``checkpoint``: a local directory, pinned by the hash of its weights, copied as it is.

sha256sum *.safetensors | sha256sum        the value of ``warmstart.method.sha256``
"""

from __future__ import annotations

import shutil
from pathlib import Path

from balcap.files import atomic_path
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
        write_note(folder, params.prompt, lowers, params.max_new_tokens)
