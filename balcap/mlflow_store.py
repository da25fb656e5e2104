"""Where the MLflow store is, and a client for it that never waits for long.

``MLFLOW_TRACKING_URI`` goes before ``runtime.tracking_uri``; without either the store is SQLite in the main checkout,
``mlruns/mlflow.db``, with artifacts beside it. MLflow takes more than a second to import: only functions import it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import urllib.parse
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from balcap import workspace
from balcap.files import locked

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""MLflow's environment, where the user's own says nothing: short timeouts, nothing sent home."""
CREATE_SECONDS = 60.0


def tracking_uri(configured: str | None) -> str:
    """The store's URI; ``configured`` is ``runtime.tracking_uri``."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured
    return uri or f"sqlite:///{workspace.mlruns() / 'mlflow.db'}"


def fingerprint(uri: str) -> str:
    """A name for a store that can be written down: the URI may hold a password."""
    return hashlib.sha256(uri.encode()).hexdigest()[:16]


def connect(uri: str) -> MlflowClient:
    """A client of the store, which is created if it is a SQLite file that does not exist.

    Also makes it the store of MLflow's own functions in this process. Raises MLflow's or SQLite's errors, and ``Busy``
    when another process creates the file for more than a minute.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.tracking import MlflowClient

    uri = _hide_password(uri)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    file = _sqlite_file(uri)
    if file is not None and not _complete(file):
        _create(uri, file)
    return MlflowClient(uri, uri)


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Find or create an experiment; a SQLite store keeps its artifacts in a folder beside the database."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        file = _sqlite_file(uri)
        folder = (file.parent / name).as_uri() if file is not None else None
        try:
            return client.create_experiment(name, artifact_location=folder)
        except MlflowException:  # another process was faster, or the store is in trouble: the next line tells
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id


def experiment_name(recipe: str) -> str:
    """One MLflow experiment per recipe."""
    return f"balcap-{recipe}"


def _hide_password(uri: str) -> str:
    """A server's address without ``user:password@``, which go where MLflow reads them but never prints them."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("http", "https") or parts.username is None:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = urllib.parse.unquote(parts.username)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = urllib.parse.unquote(parts.password or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _complete(file: Path) -> bool:
    """Whether the database is in write-ahead mode, which :func:`_create` sets last.

    Asked of SQLite: a file that is opened and closed beside it would drop the locks of this process's connections, and
    other processes would take the log away under them.
    """
    if not file.exists():
        return False
    with closing(sqlite3.connect(file.as_uri() + "?mode=ro", uri=True)) as connection:
        try:
            return bool(connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal")
        except sqlite3.OperationalError:  # locked: it is being made
            return False


def _create(uri: str, file: Path) -> None:
    """Create the tables, one process at a time; in write-ahead mode readers and the one writer do not wait."""
    from mlflow.tracking import MlflowClient

    with locked(file.parent / ".create.lock", CREATE_SECONDS, "creation of the MLflow store"):
        if not _complete(file):
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # a line per migration
            MlflowClient(uri, uri).search_experiments(max_results=1)
            with closing(sqlite3.connect(file)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
