"""The pipeline as a Prefect flow: one task per stage of DVC's graph, in a git worktree, ending as a DVC experiment.

    balcap run -S train.reward_weights.recall=2          # in a terminal
    pipeline(RunRequest(recipe="embedded"))              # in Python, below the checkout

DVC's is the only cache. A stage that has nothing to do, or whose result the run-cache holds, ends in a state named
``Cached`` with the reason; the others run ``dvc repro --single-item STAGE`` in a process group of their own. A failed
stage fails the flow with the stage's last lines; the checkout and its results stay as they were. A stage that its own
alarm paused ends the flow in a state named ``Paused`` (``_paused.py``), and ``balcap resume NAME`` goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coolname import generate_slug
from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, Failed, State
from pydantic import BaseModel

from balcap.params import Params, ParamsError, load_params
from balcap.tracking import ensure_parent, finish_parent
from flows import _dvc, _paused, _report
from flows._dvc import Planned
from flows._git import GitFault, checkout_of
from flows._paused import Paused
from flows._worktree import (
    IGNORE,
    NameTaken,
    Worktree,
    apply,
    carry,
    changed,
    exclusive,
    ignore_files,
    link,
    marks,
    uncached,
    worktree,
)
from flows.events import watcher
from flows.request import RunRequest, check, write_params
from flows.stage import PAUSED, Run, run_stage


class RunResult(BaseModel):
    """How a run ended: name (of flow run, experiment and MLflow run), commit, state and reason per stage, the lock."""

    name: str
    baseline: str
    stages: dict[str, tuple[str, str]]
    lock: str


def _run_name() -> str:
    """The name that was asked for, or the flow run's own; another one if an experiment or a paused run has that."""
    asked = runtime.flow_run.parameters["params"].name
    name = asked or runtime.flow_run.name or generate_slug(2)
    while not asked and (_dvc.experiments(Path.cwd(), name) or name in _paused.names(Path.cwd())):
        name = generate_slug(2)
    return name


@flow(name="balcap", flow_run_name=_run_name, persist_result=False, log_prints=False)
def pipeline(params: RunRequest) -> RunResult | State[Any]:
    """Run the stages that have something to do, in a worktree of the checkout one stands in."""
    checkout = checkout_of(Path.cwd())
    name = str(runtime.flow_run.name)
    try:
        resolved = check(checkout, params)
        paused = _paused.recall(checkout, name) if params.resume else None
        with worktree(checkout, name, paused) as tree:  # only now the name is this run's own
            if not paused:
                _paused.forget(checkout, name)
            return _tracked(name, resolved, lambda: _in_worktree(tree, checkout, name, params, paused))
    except (ParamsError, _dvc.OverrideError, NameTaken, _paused.NotPaused, _dvc.DvcFault, GitFault) as error:
        return Failed(message=str(error))
    except KeyboardInterrupt:
        return Cancelled(message="stopped by Ctrl-C")


def _tracked(name: str, params: Params, work: Callable[[], RunResult | State[Any]]) -> RunResult | State[Any]:
    """Do ``work`` under an MLflow parent run that ends as the work does."""
    parent, status = ensure_parent(name, _identity(name), params), "KILLED"
    try:
        result = work()
        status = "FINISHED" if isinstance(result, RunResult) else "PAUSED" if result.name == PAUSED else "FAILED"
        return result
    except Exception:
        status = "FAILED"
        raise
    finally:
        finish_parent(parent, status, params)


def _identity(name: str) -> dict[str, str]:
    tags = {"dvc.exp": name, "prefect.flow_run_id": str(runtime.flow_run.id)}
    return tags | ({"prefect.flow_run_url": url} if (url := runtime.flow_run.ui_url) else {})


def _in_worktree(
    tree: Worktree, checkout: Path, name: str, request: RunRequest, paused: Paused | None
) -> RunResult | State[Any]:
    if paused:
        request = RunRequest.model_validate_json(paused.asked)
        params = load_params(tree.root / _dvc.PARAMS)
    else:
        params = write_params(checkout, request, tree.root / _dvc.PARAMS)
    every, stages = _dvc.plan(tree.root), _dvc.plan(tree.root, request.targets)
    belonging, before = _bring_in(tree, every, paused)
    _dvc.checkout(tree.root)
    run = Run(request, params, tree, name, stages, paused)
    watcher().planned(name, stages)
    for stage in stages:
        state = _start(run, stage)
        if state.name == PAUSED:
            _keep(run, every, belonging, before)
            return Cancelled(name=PAUSED, message=f"{stage.name}: {state.message}")
        if not state.is_completed():
            kind = Cancelled if state.is_cancelled() else Failed
            return kind(message=f"{stage.name}: {state.message}")
    _save(run, belonging)
    _paused.forget(checkout, name)
    if fault := _unregistered(run):
        return Failed(message=fault)
    if request.apply:
        with exclusive(checkout):  # of two runs that end together, the second sees what the first has written
            if files := changed(tree, every, before):
                return Failed(message=_refusal(name, files))
            apply(tree, every)
    lock = tree.root / "dvc.lock"
    return RunResult(name=name, baseline=tree.baseline, stages=run.verdicts, lock=lock.read_text(encoding="utf-8"))


def _bring_in(
    tree: Worktree, every: Sequence[Planned], paused: Paused | None
) -> tuple[list[str], dict[str, str | None]]:
    """Untracked files that belong to the run, and the checkout's marks; a resumed run has them from its beginning."""
    if paused:
        link(tree, every)
        return [], paused.marks
    return carry(tree, every), marks(tree.origin, every)


def _keep(run: Run, every: Sequence[Planned], belonging: Sequence[str], before: Mapping[str, str | None]) -> None:
    """Keep the paused run until it is resumed."""
    tree = run.tree
    extra = [_dvc.PARAMS, IGNORE, *uncached(every), *ignore_files(every), *belonging]
    _paused.keep(
        tree.origin,
        run.name,
        root=tree.root,
        baseline=tree.baseline,
        origin=tree.tree,
        extra=extra,
        asked=run.request.model_dump_json(exclude_unset=True),
        marks=before,
        finished=run.finished,
    )


def _refusal(name: str, files: Sequence[str]) -> str:
    return (
        f"the results were not written back, because these changed while the run worked: {', '.join(files)}. "
        f"They are kept as experiment {name}: `dvc exp apply {name}` brings them in"
    )


def _start(run: Run, stage: Planned) -> State[Any]:
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


def _unregistered(run: Run) -> str | None:
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


def _save(run: Run, untracked: Sequence[str]) -> None:
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
