"""Model versions: one per content hash of the weights, with the card as description; aliases.

version = ensure_version(client, uri, candidate, experiment, run_id=None, tags={})
move_alias(client, candidate.name, "challenger", version)
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcap import workspace
from balcap.files import locked, write_json
from balcap.mlflow_store import experiment_id, fingerprint

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models.model import ModelInfo
    from mlflow.tracking import MlflowClient

    from balcap.registry.candidate import Candidate

CODE = Path(__file__).with_name("pyfunc_model.py")
REQUIRED = ("mlflow", "torch", "transformers", "safetensors", "pillow", "pydantic")
LOCK_SECONDS = 600.0
DESCRIPTION = 5000
"""Characters that a database column of MLflow holds (PostgreSQL refuses more)."""


def find_version(client: MlflowClient, name: str, weights_sha256: str) -> ModelVersion | None:
    """The version that holds these weights, ready for use; the oldest if there were several."""
    found = client.search_model_versions(f"name = '{name}' and tags.weights_sha256 = '{weights_sha256}'")
    ready = [version for version in found if version.status == "READY"]
    return min(ready, key=lambda version: int(version.version), default=None)


def ensure_version(
    client: MlflowClient,
    uri: str,
    candidate: Candidate,
    experiment: str,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Number of the version that holds the candidate's weights; created if there is none. Moves no alias.

    Two callers at once (on one machine) make one version. ``run_id`` is the run that the version is linked to. Raises
    MLflow's errors when the registry cannot be reached.
    """
    lock = workspace.work_root() / "registry" / f"{fingerprint(uri)}.lock"
    with locked(lock, LOCK_SECONDS, f"registration of {candidate.name}"):
        version = find_version(client, candidate.name, candidate.weights_sha256)
        if version is None:
            version = _create(client, uri, candidate, experiment, run_id, tags or {})
        if version.description != describe(candidate.card):  # evaluated again: the card tells of it
            client.update_model_version(candidate.name, version.version, describe(candidate.card))
        return str(version.version)


def move_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Let ``alias`` name this version; ``champion`` is refused."""
    if alias == "champion":
        raise ValueError("champion is moved by promotion only")
    client.set_registered_model_alias(name, alias, version)


def describe(card: str) -> str:
    """The card as the version's description, whole lines, within the database's limit."""
    if len(card) <= DESCRIPTION:
        return card
    rest = "\n\n… (the whole card is `card.md` among the artifacts of the register run)\n"
    return card[: DESCRIPTION - len(rest)].rsplit("\n", 1)[0] + rest


def _create(
    client: MlflowClient, uri: str, candidate: Candidate, experiment: str, run_id: str | None, tags: Mapping[str, str]
) -> ModelVersion:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    mlflow.set_experiment(experiment_id=experiment_id(client, uri, experiment))
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        logged = _log_model(candidate, Path(scratch), run_id)
    try:
        client.create_registered_model(candidate.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        candidate.name,
        logged.model_uri,
        run_id,
        tags={"weights_sha256": candidate.weights_sha256, "dvc.md5": candidate.md5, **tags},
        description=describe(candidate.card),
        model_id=logged.model_id,
    )
    link = [{"name": version.name, "version": version.version}]  # shown on the model's own page
    client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(link)})
    return version


def _log_model(candidate: Candidate, scratch: Path, run_id: str | None) -> ModelInfo:
    """Log the pyfunc model with its weights, or a pointer to them."""
    import mlflow.pyfunc
    from mlflow.models import Model

    from balcap.registry.candidate import POLICY
    from balcap.registry.weights import LARGEST, weights_bytes, write_pointer

    policy = candidate.folder
    if weights_bytes(policy) > LARGEST:
        policy = scratch / "policy"
        write_pointer(candidate.folder, POLICY, candidate.md5, policy)
    settings = scratch / "settings.json"
    write_json(settings, {"longest_side": candidate.longest_side})
    return Model.log(
        artifact_path=None,
        name="captioner",
        flavor=mlflow.pyfunc,
        run_id=run_id,
        python_model=str(CODE),
        artifacts={"policy": str(policy), "settings": str(settings)},
        input_example=[{"image": example_picture(candidate.longest_side)}],
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in REQUIRED],
    )


def example_picture(side: int) -> str:
    """A small grey picture as base64, to show what a request looks like."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (min(side, 32), min(side, 32)), (128, 128, 128)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's advice on the console."""
    logger: Any = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
