"""Runs in the MLflow store: one parent per flow run or experiment, one child per stage, found again by content.

experiment balcap-RECIPE > run DVC_EXP_NAME (or "workspace") > run STAGE, tagged dvc.out/PATH = DVC's hash
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcap import workspace
from balcap.files import locked
from balcap.mlflow_store import experiment_id

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PARENT_KEY = "balcap.parent"
JOURNAL_KEY = "balcap.journal"
LOCK_SECONDS = 30.0
BATCH = 1000


def find_or_create_parent(client: MlflowClient, uri: str, experiment: str, name: str, start: int | None = None) -> str:
    """Run id of the parent run of this name and checkout; two processes at once make one."""
    eid = experiment_id(client, uri, experiment)
    key = _parent_key(name)
    with locked(workspace.work_root() / "tracking" / f".parent-{key}.lock", LOCK_SECONDS, "parent run"):
        found = _by_tag(client, [eid], PARENT_KEY, key)
        if found is not None:
            return found
        tags = {PARENT_KEY: key, "mlflow.runName": name}
        return client.create_run(eid, start_time=start, tags=tags).info.run_id


def create_child(client: MlflowClient, uri: str, parent: str, record: Mapping[str, Any], journal: str) -> str:
    """The stage's run under its parent; a journal that is sent twice finds the run that it made before."""
    eid = experiment_id(client, uri, record["experiment"])
    found = _by_tag(client, [eid], JOURNAL_KEY, journal)
    if found is not None:
        return found
    tags = {
        **record["tags"],
        JOURNAL_KEY: journal,
        "mlflow.runName": record["stage"],
        "mlflow.parentRunId": parent,
        "mlflow.source.name": f"python -m steps.{record['stage']}",
        "mlflow.source.type": "LOCAL",
    }
    return client.create_run(eid, start_time=record["time"], tags=tags).info.run_id


def set_status(client: MlflowClient, run_id: str, status: str, end: int | None = None) -> None:
    """``RUNNING``, or an end status with its time in milliseconds."""
    if status == "RUNNING":
        client.update_run(run_id, status)
    else:
        client.set_terminated(run_id, status, end)


def log_metrics(client: MlflowClient, run_id: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Several records of metrics in as few calls as MLflow's limits allow."""
    from mlflow.entities import Metric

    rows = [Metric(k, v, r["time"], r["step"] or 0) for r in records for k, v in r["values"].items()]
    for start in range(0, len(rows), BATCH):
        client.log_batch(run_id, metrics=rows[start : start + BATCH])


def log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Parameters, 100 per call (MLflow's limit)."""
    from mlflow.entities import Param

    rows = [Param(k, v) for k, v in values.items()]
    for start in range(0, len(rows), 100):
        client.log_batch(run_id, params=rows[start : start + 100])


def log_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """Tags, 100 per call, cut at MLflow's 8,000 characters."""
    from mlflow.entities import RunTag

    rows = [RunTag(k, v[:8000]) for k, v in values.items()]
    for start in range(0, len(rows), 100):
        client.log_batch(run_id, tags=rows[start : start + 100])


def log_table(
    client: MlflowClient, run_id: str, name: str, file: Path, images: list[str], seen: dict[str, str]
) -> None:
    """Append a table (a parquet file) to the run's ``NAME.json``; pictures are stored as they are, each once.

    ``images`` names the columns that hold encoded pictures; ``seen`` maps sha256 to the artifact of pictures that
    earlier calls stored. A cell is what MLflow itself writes for an ``mlflow.Image``.
    """
    import pandas as pd

    frame = pd.read_parquet(file)
    for column in images:
        paths = [_store_picture(client, run_id, name, bytes(data), file.parent, seen) for data in frame[column]]
        cells = [{"type": "image", "filepath": path, "compressed_filepath": path} for path in paths]
        frame[column] = pd.Series(cells, index=frame.index, dtype=object)
    client.log_table(run_id, frame, f"{name}.json")


def find_by_output(client: MlflowClient, path: str, md5: str) -> str | None:
    """Run id of the newest finished run that wrote ``path`` with this content, in any experiment."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    return _by_tag(client, experiments, f"dvc.out/{path}", md5, "attributes.status = 'FINISHED'")


def _store_picture(
    client: MlflowClient, run_id: str, table: str, data: bytes, folder: Path, seen: dict[str, str]
) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if digest not in seen:
        suffix = {b"\x89P": ".png", b"\xff\xd8": ".jpg", b"RI": ".webp"}.get(data[:2], ".png")
        file = folder / f"{digest[:16]}{suffix}"
        file.write_bytes(data)
        client.log_artifact(run_id, str(file), f"table_images/{table}")
        file.unlink()
        seen[digest] = f"table_images/{table}/{file.name}"
    return seen[digest]


def _by_tag(client: MlflowClient, experiments: list[str], key: str, value: str, extra: str | None = None) -> str | None:
    text = f"tags.`{key}` = '{value}'" + (f" and {extra}" if extra else "")
    runs = client.search_runs(experiments, text, max_results=1, order_by=["attributes.start_time DESC"])
    return runs[0].info.run_id if runs else None


def _parent_key(name: str) -> str:
    """Two checkouts that share a store keep their own runs, also under the same name."""
    facts = [platform.node(), str(workspace.main_checkout()), name]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
