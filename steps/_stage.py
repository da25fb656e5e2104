"""What every stage shares: parameters in, resumable work, complete outputs, one tracked run.

    with stage("prepare") as s:
        with s.output("data/manifest.parquet") as tmp: ...      # appears under its name only when complete
        s.run.log({"images": 2700})                             # MLflow; never stops the stage

A fault of the user's data, files or parameters ends with one message and exit code 1, without a traceback; a stage that
paused itself ends with :data:`PAUSED`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from balcap import workspace
from balcap.files import Busy, atomic_path, locked
from balcap.params import Params, ParamsError, load_params, read_params
from balcap.tracking import Paused, StageRun, stage_run

PAUSED = 75
"""Exit status of a paused stage, and of `balcap run`: no failure, to be gone on with later."""


class StageError(RuntimeError):
    """A fault that its message explains completely: which file or key, and what to do."""


@dataclass(frozen=True)
class Stage:
    """One running stage."""

    name: str
    params: Params
    key: str
    work: Path
    """Resumable work of these parameters, inputs and code version; locked by this process."""
    run: StageRun

    def output(self, path: str) -> AbstractContextManager[Path]:
        """A temporary path that becomes ``path`` when the block ends well."""
        return atomic_path(Path(path))


@contextmanager
def stage(name: str) -> Iterator[Stage]:
    """Load and check parameters, lock the work folder of this key, track the run under its experiment."""
    params = load_params()
    # The shell's own setting must not decide: another number of threads gives other bytes.
    os.environ["OMP_NUM_THREADS"] = str(params.runtime.threads)
    key = workspace.work_key(name, read_params())
    work = workspace.work_root() / name / key
    with locked(work.with_suffix(".lock"), timeout=24 * 3600, what=f"work of stage {name}"):
        work.mkdir(parents=True, exist_ok=True)
        with stage_run(name, params) as run:
            yield Stage(name, params, key, work, run)


def main(body: Callable[[], None]) -> None:
    """Run a stage's body as a program: explained faults become one line on stderr and exit code 1, a pause 75."""
    # Lines must reach the flow's log as they are printed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        body()
    except (StageError, ParamsError, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Paused as error:
        print(f"paused: {error}", file=sys.stderr)
        sys.exit(PAUSED)
    except OSError as error:  # a full disk, a missing or unreadable file
        print(f"error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        sys.exit(1)
