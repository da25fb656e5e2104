"""The pipeline as a Prefect flow: one task per stage of DVC's graph, in a git worktree, ending as a DVC experiment.

    balcap run -S train.reward_weights.recall=2          # in a terminal
    pipeline(RunRequest(recipe="embedded"))              # in Python, below the checkout

DVC's is the only cache. A stage that has nothing to do, or whose result the run-cache holds, ends in a state named
``Cached`` with the reason; the others run ``dvc repro --single-item STAGE`` in a process group of their own. A failed
stage fails the flow with the stage's last lines; the checkout and its results stay as they were.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coolname import generate_slug
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.states import Cancelled, Completed, Failed, State
from pydantic import BaseModel

from balcap.params import Params, ParamsError
from balcap.tracking import ensure_parent, find_producer, finish_parent
from flows import _dvc, _process, _report
from flows._dvc import Planned
from flows._git import GitFault, checkout_of
from flows._worktree import (
    NameTaken,
    Worktree,
    apply,
    carry,
    changed,
    environment,
    exclusive,
    ignore_files,
    marks,
    uncached,
    worktree,
)
from flows.events import watcher
from flows.request import RunRequest, check, write_params

TAIL = 12
"""Last lines of a failed stage that its state repeats."""
CANCEL_SECONDS = 5.0
"""Time between two looks at whether the run is being cancelled in Prefect."""


class RunResult(BaseModel):
    """How a run ended: name (of flow run, experiment and MLflow run), commit, state and reason per stage, the lock."""

    name: str
    baseline: str
    stages: dict[str, tuple[str, str]]
    lock: str


@dataclass
class _Run:
    """What the tasks of one run share."""

    request: RunRequest
    params: Params
    tree: Worktree
    name: str
    stages: Sequence[Planned]
    outcomes: dict[str, State[Any]] = field(default_factory=dict)

    @property
    def verdicts(self) -> dict[str, tuple[str, str]]:
        return {stage: (state.name or "", state.message or "") for stage, state in self.outcomes.items()}


def _run_name() -> str:
    """The name that was asked for, or the flow run's own; another one if an experiment is already called that."""
    asked = runtime.flow_run.parameters["params"].name
    name = asked or runtime.flow_run.name or generate_slug(2)
    while not asked and _dvc.experiments(Path.cwd(), name):
        name = generate_slug(2)
    return name


@flow(name="balcap", flow_run_name=_run_name, persist_result=False, log_prints=False)
def pipeline(params: RunRequest) -> RunResult | State[Any]:
    """Run the stages that have something to do, in a worktree of the checkout one stands in."""
    checkout = checkout_of(Path.cwd())
    name = str(runtime.flow_run.name)
    try:
        resolved = check(checkout, params)
        with worktree(checkout, name) as tree:  # only now the name is this run's own
            return _tracked(name, resolved, lambda: _in_worktree(tree, checkout, name, params))
    except (ParamsError, _dvc.OverrideError, NameTaken, _dvc.DvcFault, GitFault) as error:
        return Failed(message=str(error))
    except KeyboardInterrupt:
        return Cancelled(message="stopped by Ctrl-C")


def _tracked(name: str, params: Params, work: Callable[[], RunResult | State[Any]]) -> RunResult | State[Any]:
    """Do ``work`` under an MLflow parent run that ends as the work does."""
    parent, status = ensure_parent(name, _identity(name), params), "KILLED"
    try:
        result = work()
        status = "FINISHED" if isinstance(result, RunResult) else "FAILED"
        return result
    except Exception:
        status = "FAILED"
        raise
    finally:
        finish_parent(parent, status, params)


def _identity(name: str) -> dict[str, str]:
    tags = {"dvc.exp": name, "prefect.flow_run_id": str(runtime.flow_run.id)}
    return tags | ({"prefect.flow_run_url": url} if (url := runtime.flow_run.ui_url) else {})


def _in_worktree(tree: Worktree, checkout: Path, name: str, request: RunRequest) -> RunResult | State[Any]:
    params = write_params(checkout, request, tree.root / _dvc.PARAMS)
    every, stages = _dvc.plan(tree.root), _dvc.plan(tree.root, request.targets)
    belonging = carry(tree, every)
    before = marks(checkout, every)
    _dvc.checkout(tree.root)
    run = _Run(request, params, tree, name, stages)
    watcher().planned(name, stages)
    for stage in stages:
        state = _start(run, stage)
        if not state.is_completed():
            kind = Cancelled if state.is_cancelled() else Failed
            return kind(message=f"{stage.name}: {state.message}")
    _save(run, belonging)
    if fault := _unregistered(run):
        return Failed(message=fault)
    if request.apply:
        with exclusive(checkout):  # of two runs that end together, the second sees what the first has written
            if files := changed(tree, every, before):
                return Failed(message=_refusal(name, files))
            apply(tree, every)
    lock = tree.root / "dvc.lock"
    return RunResult(name=name, baseline=tree.baseline, stages=run.verdicts, lock=lock.read_text(encoding="utf-8"))


def _refusal(name: str, files: Sequence[str]) -> str:
    return (
        f"the results were not written back, because these changed while the run worked: {', '.join(files)}. "
        f"They are kept as experiment {name}: `dvc exp apply {name}` brings them in"
    )


def _start(run: _Run, stage: Planned) -> State[Any]:
    """Run a stage's task with the retries that ``dvc.yaml`` allows it."""
    hints = stage.hints
    configured = run_stage.with_options(
        task_run_name=stage.name, description=stage.desc, retries=hints.retries, retry_delay_seconds=hints.retry_delay
    )
    needed = [run.outcomes[name] for name in stage.needs if name in run.outcomes]
    state: State[Any] = configured(run, stage, return_state=True, wait_for=needed)
    run.outcomes[stage.name] = state
    watcher().finished(stage.name, state.name or "", state.message or "")
    return state


def _unregistered(run: _Run) -> str | None:
    """Make sure that the version of a cached ``register`` exists; says what went wrong, and what to do."""
    if "register" not in run.outcomes or run.outcomes["register"].name != "Cached":
        return None
    from balcap.registry import ensure_registered  # mlflow, which most runs need not load

    try:
        ensure_registered(run.tree.root, run.params)
    except Exception as error:  # the registry is a boundary; the run's results are saved
        return (
            f"the results are saved as experiment {run.name}, but the registry does not hold their model: {error}; "
            "run again when MLflow answers"
        )
    return None


@task(name="stage", cache_policy=NO_CACHE, persist_result=False)
def run_stage(run: _Run, stage: Planned) -> State[Any]:
    """Bring one stage up to date. Ends as ``Completed`` if its command ran, ``Cached`` if not, else failed."""
    began = time.monotonic()
    reason = _dvc.why(run.tree.root, stage.name)
    before = _report.metric_values(run.tree.root, stage)
    tail: deque[str] = deque(maxlen=TAIL)
    if reason is None and not run.request.force:
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


def _reproduce(run: _Run, stage: Planned, reason: str, tail: deque[str]) -> State[Any]:
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

    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if run.request.force else [])]
    try:
        code = _process.run(
            [*command, stage.name],
            cwd=run.tree.root,
            env=_environment(run),
            on_line=on_line,
            timeout=stage.hints.timeout,
            stopped=_cancellation(),
        )
    except _process.TimedOut as error:
        return Failed(name="TimedOut", message=str(error))
    except _process.Stopped as error:
        return Cancelled(message=str(error))
    if code:
        return Failed(message="\n".join([_dvc.verdict(tail), *tail]))
    if ran:
        return Completed(message=f"ran because {reason}")
    return Completed(name="Cached", message=f"restored from the run-cache: {reason}")


def _environment(run: _Run) -> dict[str, str]:
    """As ``dvc exp run`` tells a stage its experiment, and where the flow run is found."""
    return environment(
        sys.executable,
        DVC_EXP_NAME=run.name,
        DVC_EXP_BASELINE_REV=run.tree.baseline,
        BALCAP_FLOW_RUN_ID=str(runtime.flow_run.id),
        BALCAP_FLOW_RUN_URL=runtime.flow_run.ui_url or "",
    )


def _cancellation() -> Callable[[], str | None]:
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


def _save(run: _Run, untracked: Sequence[str]) -> None:
    """Save the worktree as a DVC experiment of the run's name, and the run's artifact."""
    paths = [*uncached(run.stages), *ignore_files(run.stages), *untracked]
    present = [path for path in paths if (run.tree.root / path).exists()]
    found = _dvc.differences(run.tree.root)
    with exclusive(run.tree.origin):
        _dvc.save_experiment(
            run.tree.root,
            run.name,
            # Without targets all stages are saved, and all their outputs must be there.
            targets=[stage.name for stage in run.stages] if run.request.targets else [],
            force=run.request.force,
            untracked=present,
        )
    create_markdown_artifact(
        key="experiment-diff",
        description=f"Experiment {run.name} against commit {run.tree.baseline[:7]}",
        markdown=_report.run_markdown(run.name, run.tree.baseline, run.verdicts, found),
    )
