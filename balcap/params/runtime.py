"""Section ``runtime``: changes no result, and no stage depends on it."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from balcap.params.base import Strict


class Runtime(Strict):
    """Section `runtime`."""

    threads: PositiveInt
    """Threads of torch per process; results are identical for equal numbers of threads."""
    workers: PositiveInt
    """Processes that decode and resize images."""
    tracking_uri: str | None = Field(min_length=1)
    """MLflow server; null is the local store under mlruns/. MLFLOW_TRACKING_URI goes before it."""
