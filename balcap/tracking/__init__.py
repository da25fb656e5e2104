"""One MLflow run per stage, under one parent per flow run or experiment. Tracking never stops or slows a stage.

    with stage_run("train", params) as run:
        run.log({"reward/precision/mean": 0.4}, step=3)
        run.table("samples", frame, images=["picture"])

Everything is written to a journal under ``.work/tracking`` first; a second process sends it while the stage works
(``sender.py``). What could not be sent stays there and is sent by the next run that reaches the store. The run ends as
FINISHED, FAILED (an exception) or KILLED (SIGTERM, SIGINT, the process disappeared, or the stage paused itself).
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from balcap.hashing import content_md5
from balcap.mlflow_store import SETTINGS, connect, experiment_name, fingerprint, tracking_uri
from balcap.params import Params
from balcap.tracking import runs
from balcap.tracking.facts import flat_params, identity_tags, stage_outputs
from balcap.tracking.journal import Journal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Paused", "StageRun", "ensure_parent", "find_producer", "finish_parent", "stage_run"]

FLUSH_SECONDS = 120.0
"""Most time that a finished stage waits for its records to be sent; a store in trouble ends the wait earlier."""
KILLED_SECONDS = 5.0
"""The same for a stage that is being cancelled."""

STATE = "balcap.state"
"""Tag of a run: running, finished, failed, killed or paused, the last of which MLflow has no word for."""

P = ParamSpec("P")


class Terminated(SystemExit):
    """SIGTERM arrived; unwinds the stage so that half-written outputs are removed."""


class Paused(RuntimeError):
    """A stage ends by its own decision, to be gone on with later: no failure."""


def _quietly(method: Callable[Concatenate[StageRun, P], None]) -> Callable[Concatenate[StageRun, P], None]:
    """A method that says what went wrong, once per run, instead of raising: tracking must never stop a stage."""

    @functools.wraps(method)
    def wrapped(self: StageRun, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self._warn(method.__name__.strip("_"), repr(error))

    return wrapped


class StageRun:
    """The tracked run of one stage. No method raises, none waits for the store."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self._journal: Journal | None = None
        self._sender: subprocess.Popen[bytes] | None = None
        self._run_id: str | None = None
        self._warned: set[str] = set()
        self._files, self._prefix = 0, ""
        self._lock = threading.Lock()

    @classmethod
    def join(cls, stage: str, journal: Path | None) -> StageRun:
        """The run of the stage that started this process, to add records to; ``None`` where it keeps none."""
        run = cls(stage)
        if journal is not None:
            run._journal = Journal.append(journal)
            run._prefix = "rank-"
        return run

    @property
    def journal(self) -> Path | None:
        """Where the records are written; ``None`` if that did not succeed."""
        return self._journal.path if self._journal else None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; ``None`` until the store has answered, some seconds after the start."""
        if self._run_id is None and self._journal is not None:
            self._run_id = self._journal.state().get("run_id")
        return self._run_id

    def wait_run_id(self, seconds: float) -> str | None:
        """:attr:`run_id`, waited for up to ``seconds``; only for work that cannot start without it."""
        deadline = time.monotonic() + seconds
        while self.run_id is None and self._sender is not None and time.monotonic() < deadline:
            if self._sender.poll() is not None:
                break
            time.sleep(0.1)
        return self.run_id

    @_quietly
    def log(self, metrics: Mapping[str, float | None], step: int | None = None) -> None:
        """Log numbers; ``None`` is left out, NaN is kept as unknown."""
        values = {name: float(value) for name, value in metrics.items() if value is not None}
        self._write({"op": "metrics", "step": step, "values": values})

    @_quietly
    def table(self, name: str, frame: pd.DataFrame, images: Sequence[str] = ()) -> None:
        """Append rows to the table NAME.json of the run; columns in ``images`` hold PNG or JPEG bytes."""
        file = self._new_file(".parquet")
        frame.reset_index(drop=True).to_parquet(file)
        self._write({"op": "table", "name": name, "file": file.name, "images": list(images)})

    @_quietly
    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file or folder with the run."""
        path = Path(path)
        target = self._new_file("") / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            target.parent.mkdir()
            shutil.copyfile(path, target)
        file = target.relative_to(self._open().files).as_posix()
        self._write({"op": "artifact", "file": file, "folder": folder})

    @_quietly
    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._write({"op": "tags", "values": {name: str(value) for name, value in values.items()}})

    def _open(self) -> Journal:
        if self._journal is None:
            raise RuntimeError("no journal")
        return self._journal

    def _write(self, record: dict[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(record)

    def _new_file(self, suffix: str) -> Path:
        with self._lock:
            self._files += 1
            folder = self._open().files
            folder.mkdir(exist_ok=True)
            return folder / f"{self._prefix}{self._files:04}{suffix}"

    def _warn(self, what: str, reason: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            print(f"tracking: {what}: {reason} (the stage goes on)", file=sys.stderr, flush=True)

    @_quietly
    def _begin(self, params: Params) -> None:
        uri = tracking_uri(params.runtime.tracking_uri)
        journal = self._journal = Journal.create(self.stage)
        journal.write(
            {
                "op": "start",
                "store": fingerprint(uri),
                "experiment": experiment_name(params.recipe),
                "parent": os.environ.get("DVC_EXP_NAME") or "workspace",
                "stage": self.stage,
                "flow": "BALCAP_FLOW_RUN_ID" in os.environ,
                "tags": identity_tags(),
            }
        )
        journal.write({"op": "params", "values": flat_params(self.stage, params)})
        with journal.path.with_suffix(".log").open("wb") as log:
            self._sender = subprocess.Popen(
                [sys.executable, "-m", "balcap.tracking.sender", str(journal.path), str(journal.fd), str(os.getpid())],
                pass_fds=[journal.fd], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**SETTINGS, **os.environ, "MLFLOW_TRACKING_URI": uri},
            )  # fmt: skip

    @_quietly
    def _end(self, status: str, wait: float) -> None:
        """Record the end and wait for the sender, not longer than ``wait`` seconds."""
        self._write({"op": "end", "status": status})
        sender, journal = self._sender, self._journal
        if sender is None or journal is None:
            return
        try:
            sent = sender.wait(wait) == 0
        except subprocess.TimeoutExpired:
            sent = False
        finally:
            sender.kill()
            sender.wait()
        self._run_id = self.run_id
        if sent:
            journal.delete()
        else:
            self._warn("MLflow could not be reached", f"{journal.path} is sent with a later run")
        journal.close()


@contextmanager
def stage_run(stage: str, params: Params) -> Iterator[StageRun]:
    """Track the block as the run of ``stage``; at a good end its outputs are tagged with DVC's content hashes."""
    run = StageRun(stage)
    with _terminable():
        run._begin(params)
        try:
            yield run
        except (KeyboardInterrupt, Terminated):
            run._end("KILLED", KILLED_SECONDS)
            raise
        except Paused as error:
            run.tags({STATE: "paused", "paused": str(error)[:500]})
            run._end("KILLED", FLUSH_SECONDS)
            raise
        except BaseException as error:
            run.tags({"error": f"{type(error).__name__}: {error}"[:500]})
            run._end("FAILED", FLUSH_SECONDS)
            raise
        else:
            _tag_outputs(run)
            run._end("FINISHED", FLUSH_SECONDS)


@contextmanager
def _terminable() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Terminated`, unless somebody else already handles it."""

    def stop(signum: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated(128 + signum)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@_quietly
def _tag_outputs(run: StageRun) -> None:
    run.tags({f"dvc.out/{path}": content_md5(path) for path in stage_outputs(run.stage)})


def ensure_parent(name: str, tags: Mapping[str, str], params: Params) -> str | None:
    """For the flow: find or create the parent run and set it RUNNING; ``None`` when the store is in trouble."""
    uri = tracking_uri(params.runtime.tracking_uri)
    try:
        client = connect(uri)
        run_id = runs.find_or_create_parent(client, uri, experiment_name(params.recipe), name)
        runs.set_status(client, run_id, "RUNNING")
        runs.log_tags(client, run_id, {**identity_tags(), **tags, STATE: "running"})
        return run_id
    except Exception as error:  # the store, the network: as everywhere, not a reason to stop
        print(f"tracking: the parent run was not recorded: {error!r}", file=sys.stderr)
        return None


def finish_parent(run_id: str | None, status: str, params: Params) -> None:
    """For the flow: end the parent run as FINISHED, FAILED, KILLED or PAUSED."""
    if run_id is None:
        return
    try:
        client = connect(tracking_uri(params.runtime.tracking_uri))
        runs.log_tags(client, run_id, {STATE: status.lower()})
        runs.set_status(client, run_id, "KILLED" if status == "PAUSED" else status)
    except Exception as error:  # as above
        print(f"tracking: the end of the parent run was not recorded: {error!r}", file=sys.stderr)


def find_producer(path: str, md5: str, params: Params) -> str | None:
    """Run id of the newest run that wrote ``path`` with DVC's hash ``md5``; ``None`` if unknown or unreachable."""
    try:
        return runs.find_by_output(connect(tracking_uri(params.runtime.tracking_uri)), path, md5)
    except Exception as error:  # as above
        print(f"tracking: cannot look up the run that made {path}: {error!r}", file=sys.stderr)
        return None
