"""Section ``runtime``: changes no result, and no stage depends on it."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from balcap.params.base import Strict


class Serving(Strict):
    """Where a model is served (OpenAI-compatible), and how hard it may be asked."""

    urls: tuple[str, ...] = Field(strict=False, min_length=1)
    """Base addresses that end in /v1; a picture's calls all go to one of them."""
    api_key_env: str | None = Field(min_length=1)
    """Environment variable that holds the key; null where none is asked for."""
    in_flight: PositiveInt
    """Calls under way at once, per process: also the size of the connection pool."""
    timeout: PositiveFloat
    """Seconds for one call, from sending to the last byte."""
    retries: NonNegativeInt
    """Further attempts after 429, 5xx, a timeout or a broken connection."""


class Runtime(Strict):
    """Section `runtime`."""

    threads: PositiveInt
    """Threads of torch per process; results are identical for equal numbers of threads."""
    workers: PositiveInt
    """Processes that decode and resize images."""
    tracking_uri: str | None = Field(min_length=1)
    """MLflow server; null is the local store under mlruns/. MLFLOW_TRACKING_URI goes before it."""
    serving: dict[str, Serving]
    """By model name; a judge or writer that is a language model is looked up here."""
