"""One stage of a run as a Prefect task: let DVC bring it up to date, and say in its state and artifact what happened.

Completed   its command ran            Cached    it had nothing to do, or the run-cache held the result
Failed      with the last lines        TimedOut  it took longer than dvc.yaml allows
Paused      its own alarm ended it (``balcap/training/pause.py``); not retried
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed, Failed, State

from balcap import workspace
from balcap.params import Params
from balcap.tracking import find_producer
from balcap.training import pause
from flows import _dvc, _process, _report
from flows._dvc import Planned
from flows._paused import Paused
from flows._worktree import Worktree, environment
from flows.events import watcher
from flows.request import RunRequest
from steps._stage import PAUSED as PAUSED_EXIT

TAIL = 12
"""Last lines of a failed stage that its state repeats."""
CANCEL_SECONDS = 5.0
"""Time between two looks at whether the run is being cancelled in Prefect."""
PAUSED = "Paused"
"""Name of the state of a paused stage and run; its type is CANCELLED, Prefect's end that is neither well nor failed."""


@dataclass
class Run:
    """What the tasks of one run share."""

    request: RunRequest
    params: Params
    tree: Worktree
    name: str
    stages: Sequence[Planned]
    paused: Paused | None
    """What it goes on from."""
    outcomes: dict[str, State[Any]] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, tuple[str, str]]:
        return {stage: (state.name or "", state.message or "") for stage, state in self.outcomes.items()}

    @property
    def finished(self) -> list[str]:
        return [stage for stage, state in self.outcomes.items() if state.is_completed()]

    def forced(self, stage: Planned) -> bool:
        """Whether it runs in any case: a resumed run repeats nothing that was done before its pause."""
        return self.request.force and not (self.paused and stage.name in self.paused.finished)


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def run_stage(run: Run, stage: Planned) -> State[Any]:
    """Bring one stage up to date. Ends as ``Completed`` if its command ran, ``Cached`` if not, else failed."""
    began = time.monotonic()
    reason = _dvc.why(run.tree.root, stage.name)
    before = _report.metric_values(run.tree.root, stage)
    tail: deque[str] = deque(maxlen=TAIL)
    if reason is None and not run.forced(stage):
        state: State[Any] = Completed(name="Cached", message="nothing it depends on changed")
    else:
        state = _reproduce(run, stage, reason or "it was forced", tail)
    after = _report.metric_values(run.tree.root, stage)
    outs = _dvc.stored(run.tree.root, stage.name) if state.is_completed() else []
    cached = state.name == "Cached" and outs
    create_markdown_artifact(
        key=f"stage-{stage.name.lower().replace('_', '-').replace('@', '-')}",
        description=f"{stage.name}: {state.name}",
        markdown=_report.stage_markdown(
            stage,
            state=state.name or "",
            seconds=time.monotonic() - began,
            reason=reason or state.message or "",
            metrics=_report.changes(before, after) if state.is_completed() else {},
            outs=outs,
            made_by=find_producer(outs[0].path, outs[0].md5, run.params) if cached else None,
            tail=() if state.is_completed() else tuple(tail),
        ),
    )
    return state


def _reproduce(run: Run, stage: Planned, reason: str, tail: deque[str]) -> State[Any]:
    """Let DVC reproduce the stage: from the run-cache if it can, by running the command if not."""
    logger, ran = get_run_logger(), False
    logger.info("why: %s", reason)
    watcher().started(stage.name, reason)

    def on_line(line: str) -> None:
        nonlocal ran
        if line == _dvc.PUSH:  # where to is nobody's concern here
            return
        ran = ran or _dvc.RUNNING.format(stage.name) in line
        tail.append(line)
        logger.info(line)
        watcher().line(stage.name, line)

    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if run.forced(stage) else [])]
    try:
        code = _process.run(
            [*command, stage.name],
            cwd=run.tree.root,
            env=_environment(run),
            on_line=on_line,
            timeout=stage.hints.timeout,
            stopped=cancellation(),
            grace=stage.hints.grace,
        )
    except _process.TimedOut as error:
        return Failed(name="TimedOut", message=str(error))
    except _process.Stopped as error:
        return Cancelled(message=str(error))
    if code:
        return _paused_state(run, stage, tail) or Failed(message="\n".join([_dvc.verdict(tail), *tail]))
    if ran:
        return Completed(message=f"ran because {reason}")
    return Completed(name="Cached", message=f"restored from the run-cache: {reason}")


def _paused_state(run: Run, stage: Planned, tail: Sequence[str]) -> State[Any] | None:
    """What the stage's marker says, if it was paused. Not a failure: nothing is retried."""
    folder = pause.find(workspace.work_root() / stage.name, run.name)
    if folder is None or _dvc.exit_status(tail) != PAUSED_EXIT:
        return None
    lines = [
        pause.told(pause.waiting(folder)),
        f"look: MLflow run {run.name} (balcap ui), {folder / pause.MARKER}; docs/operate.md says what each alarm means",
        f"go on: balcap resume {run.name}",
    ]
    return Cancelled(name=PAUSED, message="\n".join(lines))


def _environment(run: Run) -> dict[str, str]:
    """As ``dvc exp run`` tells a stage its experiment, where the flow run is found, and whether somebody resumed it."""
    return environment(
        sys.executable,
        **({pause.RESUME: "1"} if run.paused else {}),
        DVC_EXP_NAME=run.name,
        DVC_EXP_BASELINE_REV=run.tree.baseline,
        BALCAP_FLOW_RUN_ID=str(runtime.flow_run.id),
        BALCAP_FLOW_RUN_URL=runtime.flow_run.ui_url or "",
    )


def cancellation() -> Callable[[], str | None]:
    """Asks Prefect now and then whether somebody cancelled the flow run."""
    flow_run_id, asked = runtime.flow_run.id, time.monotonic()

    def stopped() -> str | None:
        nonlocal asked
        if time.monotonic() - asked < CANCEL_SECONDS:
            return None
        asked = time.monotonic()
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(flow_run_id).state
        except Exception:  # a server that does not answer is no reason to stop
            return None
        return "cancelled in Prefect" if state and (state.is_cancelling() or state.is_cancelled()) else None

    return stopped
