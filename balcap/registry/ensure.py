"""After a cached ``register`` stage: the version must exist also in an emptied registry or a fresh clone.

ensure_registered(Path(), params)
"""

from __future__ import annotations

import json
from pathlib import Path

from balcap.mlflow_store import connect, experiment_name, tracking_uri
from balcap.params import Params
from balcap.registry.candidate import read_candidate
from balcap.registry.prompts import name_words
from balcap.registry.version import ensure_version, find_version

REGISTRATION = "reports/register/registration.json"


def ensure_registered(root: Path, params: Params) -> None:
    """Create the version that ``registration.json`` below ``root`` names, if the registry lacks it.

    Moves no alias. Nothing to do without a registration. Raises ``FileNotFoundError`` when a version must be made and
    the captioner is not there, and MLflow's errors when the registry cannot be reached.
    """
    path = root / REGISTRATION
    if not path.exists():
        return
    recorded = json.loads(path.read_text(encoding="utf-8"))
    uri = tracking_uri(params.runtime.tracking_uri)
    client = connect(uri)
    if find_version(client, recorded["name"], recorded["weights_sha256"]) is None:
        version = ensure_version(client, uri, read_candidate(root, params), experiment_name(params.recipe))
        name_words(client, params, recorded["name"], version)
