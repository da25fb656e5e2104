"""Captions of pictures from the registered captioner: ``champion``, else ``challenger``.

captioner = load_captioner("balcap-embedded", store=None)
captioner.caption([Path("cat.jpg")])     # -> ["A cat sits on a mat."]
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcap.mlflow_store import connect, tracking_uri
from balcap.registry.pictures import PictureError, from_base64

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

ALIASES = ("champion", "challenger")
CHECK_SIDE = 64
"""Pixels to which a picture is shrunk when it is only checked."""


class CaptionError(RuntimeError):
    """Why there is no caption: a picture, or the model; the message names it and the fix."""


@dataclass(frozen=True)
class Captioner:
    """A loaded model version."""

    name: str
    version: str
    model: Any
    """MLflow's pyfunc model."""

    def caption(self, pictures: list[Path]) -> list[str]:
        """One caption per picture file, in order; raises :class:`CaptionError` naming the file."""
        return list(self.model.predict([{"image": read_picture(path)} for path in pictures]))


def read_picture(path: Path) -> str:
    """A picture file as base64; raises :class:`CaptionError` when it is missing or no picture."""
    try:
        text = base64.b64encode(path.read_bytes()).decode()
        from_base64(text, CHECK_SIDE)
    except OSError as error:
        raise CaptionError(f"{path}: {error.strerror or error}") from None
    except PictureError as error:
        raise CaptionError(f"{path}: {error}") from None
    return text


def load_captioner(name: str, store: str | None, selector: str | None = None) -> Captioner:
    """Load a version of the registered model ``name``: ``selector`` is a number or an alias.

    Without one ``champion`` is taken, else ``challenger``. ``store`` is ``runtime.tracking_uri``. Raises
    :class:`CaptionError`.
    """
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(store)
    try:
        version = _select(connect(uri), name, selector)
        model = mlflow.pyfunc.load_model(f"models:/{name}/{version.version}")
    except MlflowException as error:
        raise CaptionError(f"{name}: MLflow does not give the model: {error}; check MLFLOW_TRACKING_URI") from error
    return Captioner(name, str(version.version), model)


def _select(client: MlflowClient, name: str, selector: str | None) -> ModelVersion:
    """The version that a number or alias names."""
    from mlflow.exceptions import MlflowException

    for wanted in [selector] if selector else ALIASES:
        try:
            if wanted.isdecimal():
                return client.get_model_version(name, wanted)
            return client.get_model_version_by_alias(name, wanted)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    if selector:
        raise CaptionError(f"{name} has no version or alias {selector!r}; `balcap ui` shows which there are")
    if found := client.search_model_versions(f"name = '{name}'", max_results=1, order_by=["version_number DESC"]):
        raise CaptionError(
            f"no version of {name} is called {' or '.join(ALIASES)}; name one: --model {found[0].version} is the newest"
        )
    raise CaptionError(f"no captioner is registered as {name} yet; run `make demo` first")
