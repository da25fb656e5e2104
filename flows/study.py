"""The ablation study as a Prefect flow: two runs of the pipeline at a time, each a DVC experiment; resumable.

    study(checkout, "paper", seeds=3, results=Path("docs/results/ablations"))       # balcap study ablations

The whole study works on one snapshot of the code, in worktrees of its own, so that the checkout may be edited
meanwhile. What arms have in common, pictures and warm starts, is made first, once; each arm then starts from a worktree
in which these results stand, and has `train` and `evaluate` left to do. A run whose experiment exists is not run again;
one that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, as_completed
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from balcap.files import Busy, remove
from balcap.params import ParamsError
from balcap.progress import Progress
from balcap.study.arms import chosen
from balcap.study.data import StudyFault, read_study
from balcap.study.report import write_report
from balcap.workspace import work_root
from flows import _dvc, _process
from flows._git import GitFault, git
from flows._worktree import NameTaken, carry, environment, uncached, worktree
from flows.stage import TAIL, cancellation
from flows.study_gather import check_kept, gather
from flows.study_plan import LAST, SHARED, ArmRun, Start, plan_runs

AT_ONCE = 2
CHANGED = """\
the study's worktrees differ from the plan: code or recipes changed while it started, or git ignores some of the code \
(git status --ignored balcap steps recipes); start it again"""
Group = Literal["paper", "all"]
_RUNNER: Any = ThreadPoolTaskRunner(max_workers=AT_ONCE)


@flow(name="study", persist_result=False, log_prints=False, task_runner=_RUNNER)
def study(checkout: Path, group: Group, seeds: int, results: Path) -> State[Any]:
    """Make the runs that are missing, then write all results and the report to ``results`` in the checkout.

    All results: those of the group, and of every other arm whose runs an earlier study has finished.
    """
    stop, arms, folder = threading.Event(), chosen(group), checkout / results
    try:
        runs = plan_runs(checkout, chosen("all"), seeds)
        missing = [run for run in runs if not _dvc.experiments(checkout, run.name)]
        todo, unfinished = [run for run in missing if run.arm in arms], {run.arm for run in missing}
        shown = [run for run in runs if run.arm in arms or run.arm not in unfinished]
        check_kept(checkout, shown, results)
        count = len(arms) * seeds
        print(f"study: {count - len(todo)} of {count} runs are there", flush=True)
        fault = _make(checkout, todo, lambda tree: plan_runs(tree, chosen("all"), seeds) == runs, stop)
        if fault is not None:
            return fault
        gather(checkout, shown, results, f"balcap study ablations --arms {group} --seeds {seeds}")
        write_report(read_study(folder / "data"), folder)
    except NameTaken:
        return Failed(message="a study is in progress in this repository; wait until it has ended")
    except (ParamsError, StudyFault, _dvc.DvcFault, GitFault, Busy, OSError) as error:
        return Failed(message=str(error))
    except KeyboardInterrupt:
        return Cancelled(message="stopped by Ctrl-C")
    finally:
        stop.set()
    return Completed(message=str(results / "README.md"))


def _make(
    checkout: Path, todo: Sequence[ArmRun], as_planned: Callable[[Path], bool], stop: threading.Event
) -> State[Any] | None:
    """Make the warm starts, then the arms, if there is anything to do; what failed, or None."""
    if not todo:
        return None
    starts = list(dict.fromkeys(run.start for run in todo))
    worlds = {start.recipe: start for start in reversed(starts)}.values()
    before = {stage.name: stage.needs for stage in _dvc.plan(checkout, [SHARED])}[SHARED]
    with ExitStack() as stack:
        trees = {start: stack.enter_context(_tree(checkout, start)) for start in starts}
        if not all(as_planned(tree) for tree in trees.values()):  # results would stand under a wrong name
            return Failed(message=CHANGED)
        pictures = [_shared(checkout, trees[s], f"{s.recipe}-data", s.recipe, {}, before) for s in worlds]
        warm = [_shared(checkout, trees[s], f"{s.recipe}-w{s.seed}", s.recipe, s.seeds, [SHARED]) for s in starts]
        # Long captions take the longest: started last, they would end alone.
        arms = [
            _command(trees[run.start], run.name, run.arm.recipe, run.seeds, (LAST,))
            for run in sorted(todo, key=lambda run: not run.arm.long)
        ]
        return (
            _round(pictures, stop, None)
            or _round(warm, stop, None)
            or _round(arms, stop, Progress("study", len(arms), "runs"))
        )


@contextmanager
def _tree(checkout: Path, start: Start) -> Iterator[Path]:
    """A worktree of the checkout as it is, new code included, in which a warm start's results are to stand."""
    with worktree(checkout, f"study-{start.recipe}-w{start.seed}") as tree:
        stages = _dvc.plan(tree.root)
        carry(tree, stages)
        for path in uncached(stages):  # results of the checkout are none of the study's
            remove(tree.root / path)
        yield tree.root


@dataclass(frozen=True)
class Command:
    """One `balcap run`, started in the worktree ``root``."""

    root: Path
    name: str
    words: tuple[str, ...]


def _command(root: Path, name: str, recipe: str, seeds: Mapping[str, int], rest: Sequence[str]) -> Command:
    changes = [word for key, seed in seeds.items() for word in ("-S", f"{key}={seed}")]
    words = (sys.executable, "-m", "flows.cli", "run", "--recipe", recipe, *changes, "--name", name, *rest)
    return Command(root, name, words)


def _shared(
    checkout: Path, root: Path, name: str, recipe: str, seeds: Mapping[str, int], stages: Sequence[str]
) -> Command:
    """A run of what arms share, into its worktree. Begun again it takes its name back: what it made is in the cache."""
    for ref in _dvc.experiments(checkout, name):
        git(checkout, "update-ref", "-d", ref)
    return _command(root, name, recipe, seeds, ("--apply", *stages))


def _round(commands: Sequence[Command], stop: threading.Event, progress: Progress | None) -> State[Any] | None:
    """Run commands, two at a time, all of them also when one fails; the faults as one state, or None."""
    futures: list[PrefectFuture[Any]] = []
    try:
        for command in commands:
            named = run_pipeline.with_options(task_run_name=command.name)
            futures.append(named.submit(command, _log(command.name), stop))
        faults: list[State[Any]] = []
        for future in as_completed(futures):
            future.wait()  # its state would otherwise be asked of the server, which knows it later
            if not future.state.is_completed():
                faults.append(future.state)
                print(future.state.message, flush=True)
            elif progress is not None:
                progress.advance(note=str(future.state.message))
        if not faults:
            return None
        kind = Cancelled if any(fault.is_cancelled() for fault in faults) else Failed
        return kind(message="\n".join(str(fault.message) for fault in faults))
    except BaseException:  # Ctrl-C above all: what runs must have ended before its worktree goes
        stop.set()
        for future in futures:
            future.wait()
        raise


def _log(name: str) -> Path:
    folder = work_root() / "study"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.log"


@task(name="run", cache_policy=NO_CACHE, persist_result=False)
def run_pipeline(command: Command, log: Path, stop: threading.Event) -> State[Any]:
    """One `balcap run` in a process group of its own; what it prints goes to ``log``."""
    name = command.name
    if stop.is_set():
        return Cancelled(message=f"{name}: not begun")
    tail: deque[str] = deque(maxlen=TAIL)
    cancelled = cancellation()
    print(f"{name}: running; {log}", flush=True)
    try:
        with log.open("w", encoding="utf-8", buffering=1) as file:
            code = _process.run(
                command.words,
                cwd=command.root,
                env=environment(sys.executable),
                on_line=_to(file.write, tail),
                stopped=lambda: "stopped" if stop.is_set() else cancelled(),
            )
    except _process.Stopped as error:
        return Cancelled(message=f"{name}: {error}")
    if code:
        return Failed(message="\n".join([f"{name}: exit status {code}; {log}", *tail]))
    return Completed(message=name)


def _to(write: Callable[[str], Any], tail: deque[str]) -> Callable[[str], None]:
    def on_line(line: str) -> None:
        tail.append(line)
        write(line + "\n")

    return on_line
