"""Sends a stage's journal to MLflow while the stage runs, and what earlier runs could not send.

    python -m balcap.tracking.sender JOURNAL FD STAGE_PID   started by balcap.tracking, never by hand

A process of its own: MLflow's import, its locks and a store that hangs cost the stage nothing, and when the stage is
killed without a word its run is still ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcap.mlflow_store import connect, fingerprint, tracking_uri
from balcap.tracking import runs
from balcap.tracking.journal import Journal, orphans

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

POLL_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 30.0
TROUBLE_SECONDS = 5.0
"""A store that has been in trouble for this long when the stage ends is given up until the next run."""
REPLAY_SECONDS = 10.0
"""Most time per run for what earlier runs left."""
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "MALFORMED_REQUEST")


class Player:
    """Sends the records of one journal in order; where it stands survives in the journal's state file."""

    def __init__(self, client: MlflowClient, uri: str, journal: Journal, late: bool) -> None:
        self.client, self.uri, self.journal, self.late = client, uri, journal, late
        self.state: dict[str, Any] = {"offset": 0, "run_id": None, "parent_id": None, "pictures": {}}
        self.state.update(journal.state())

    @property
    def done(self) -> bool:
        """Whether the end of the run was sent."""
        return bool(self.state.get("ended"))

    def step(self) -> bool:
        """Send what is new; False if there was nothing. Raises when the store is in trouble."""
        rows = self.journal.read(self.state["offset"])
        for op, group in groupby(rows, key=lambda row: row[0]["op"]):
            parts = list(group)
            for part in [parts] if op == "metrics" else [[row] for row in parts]:
                self._send([record for record, _ in part])
                self.state["offset"] = part[-1][1]
                self.journal.save_state(self.state)
        return bool(rows)

    def _send(self, records: list[dict[str, Any]]) -> None:
        """Send records of one kind; what the store refuses for good is reported and left out."""
        from mlflow.exceptions import MlflowException

        try:
            getattr(self, f"_{records[0]['op']}")(records)
        except MlflowException as error:
            if error.error_code not in REFUSED or not self.state["run_id"]:
                raise
            print(f"refused by the store: {records[0]['op']}: {error}", flush=True)
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            if not self.state["run_id"]:
                raise
            print(f"cannot be sent: {records[0]['op']}: {error!r}", flush=True)

    def _start(self, records: list[dict[str, Any]]) -> None:
        first = records[0]
        parent = runs.find_or_create_parent(self.client, self.uri, first["experiment"], first["parent"], first["time"])
        self.state["parent_id"] = parent
        if not self.late and not first["flow"]:
            runs.set_status(self.client, parent, "RUNNING")
        child = runs.create_child(self.client, self.uri, parent, first, self.journal.path.stem)
        self.state.update(run_id=child, flow=first["flow"])

    def _params(self, records: list[dict[str, Any]]) -> None:
        runs.log_params(self.client, self.state["run_id"], records[0]["values"])

    def _metrics(self, records: list[dict[str, Any]]) -> None:
        runs.log_metrics(self.client, self.state["run_id"], records)

    def _tags(self, records: list[dict[str, Any]]) -> None:
        runs.log_tags(self.client, self.state["run_id"], records[0]["values"])

    def _table(self, records: list[dict[str, Any]]) -> None:
        first, pictures = records[0], self.state["pictures"]
        file = self.journal.files / first["file"]
        runs.log_table(self.client, self.state["run_id"], first["name"], file, first["images"], pictures)

    def _artifact(self, records: list[dict[str, Any]]) -> None:
        path = self.journal.files / records[0]["file"]
        log = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        target = "/".join(part for part in (records[0]["folder"], path.name if path.is_dir() else None) if part)
        log(self.state["run_id"], str(path), target or None)

    def _end(self, records: list[dict[str, Any]]) -> None:
        status, end = records[0]["status"], records[0]["time"]
        runs.set_status(self.client, self.state["run_id"], status, end)
        if self.late or not self.state.get("flow"):  # the flow ends its parent run itself
            runs.set_status(self.client, self.state["parent_id"], status, end)
        self.state["ended"] = True


def send(journal: Journal, uri: str, stage: int) -> bool:
    """Send the journal until the run's end, or that of the process ``stage``; False if a part could not be sent."""
    player, wait, replayed, trouble = None, POLL_SECONDS, False, 0.0
    while True:
        if os.getppid() != stage:
            _end_for(journal)
        last = journal.ended()
        try:
            player = player or Player(connect(uri), uri, journal, late=False)
            fresh = player.step()
            wait = POLL_SECONDS
        except Exception:  # whatever the store, the network or the disk does: keep the journal, try again
            traceback.print_exc()
            trouble = trouble or time.monotonic()
            if last and time.monotonic() - trouble > TROUBLE_SECONDS:
                return False
            wait = min(2 * wait + 0.5, MAX_BACKOFF_SECONDS)
        else:
            trouble = 0.0
            if not replayed and (player.done or not fresh):
                replayed = True
                replay(player.client, uri)
            if player.done:
                return True
        _sleep(wait, journal, stage, last)


def replay(client: MlflowClient, uri: str) -> None:
    """Send what earlier runs could not send to this store, as far as the time goes."""
    deadline = time.monotonic() + REPLAY_SECONDS
    for path in orphans():
        journal = Journal.take(path) if time.monotonic() < deadline else None
        if journal is None:
            continue
        try:
            if _replay_one(client, uri, journal):
                journal.delete()
        except Exception:  # as above; the next run tries again
            traceback.print_exc()
        finally:
            journal.close()


def _replay_one(client: MlflowClient, uri: str, journal: Journal) -> bool:
    """Whether the journal has served: sent to its end, or killed before it said anything."""
    rows = journal.read(0)
    if not rows:
        return True
    if rows[0][0].get("store") != fingerprint(uri):
        return False
    _end_for(journal)
    player = Player(client, uri, journal, late=True)
    player.step()
    return player.done


def _end_for(journal: Journal) -> None:
    """The stage was killed without a word: say so for it."""
    if not journal.ended():
        journal.write({"op": "end", "status": "KILLED"})


def _sleep(seconds: float, journal: Journal, stage: int, ended: bool) -> None:
    """Sleep, but wake up when the stage ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and os.getppid() == stage:
        time.sleep(POLL_SECONDS)
        if not ended and journal.ended():
            return


def main() -> int:
    """Send the journal named on the command line; exit code 0 when everything was sent."""
    for name in (signal.SIGTERM, signal.SIGINT):  # a cancelled stage still wants its end recorded
        signal.signal(name, signal.SIG_IGN)
    journal, stage = Journal(Path(sys.argv[1]), int(sys.argv[2])), int(sys.argv[3])
    sent = send(journal, tracking_uri(None), stage)
    if sent and os.getppid() != stage:  # nobody else is left to do it
        journal.delete()
    return 0 if sent else 1


if __name__ == "__main__":
    sys.exit(main())
