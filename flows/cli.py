"""The console script ``balcap``: the library's commands (``balcap/cli.py``) and those that need flows or DVC.

balcap run | resume | plan | study | demo | ui | recipe …

A run ends with 0 when it is complete, 75 when one of its alarms paused it, 130 when it was cancelled, else 1 or 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from balcap.cli import app
from balcap.cli_fail import fail
from flows.cli_plan import plan
from flows.cli_study import study

if TYPE_CHECKING:
    from flows.pipeline import RunResult
    from flows.request import RunRequest

CANCELLED = 130
"""Exit status of a cancelled run, as a shell reports Ctrl-C."""
Recipe = Annotated[str | None, typer.Option("--recipe", "-r", help="Recipe to start from, instead of params.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set-param", "-S", metavar="KEY=VALUE", help="Change a parameter, as DVC does.")
]
RunName = Annotated[str | None, typer.Option("--name", "-n", help="Name in Prefect, DVC and MLflow; else made up.")]
GO_ON = "finished stages and checkpoints are kept: the same command goes on from them"
Apply = Annotated[bool, typer.Option("--apply", help="Write the results back into the working tree.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Run stages that have nothing to do, too; reuse the name.")]
Targets = Annotated[list[str] | None, typer.Argument(metavar="[STAGE]...", help="Stages to run, with what they need.")]


app.command()(plan)
app.add_typer(study, name="study")


@app.command()
def run(
    targets: Targets = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    name: RunName = None,
    apply: Apply = False,
    force: Force = False,
) -> None:
    """Run the pipeline in a worktree of its own; it ends as a DVC experiment.

    The run takes HEAD, your uncommitted changes, and new files in folders that stages depend on (balcap/, data/, …).
    Only stages with something to do are run.

    [dim]$[/dim] balcap run
    [dim]$[/dim] balcap run --recipe photos --name photos-1
    [dim]$[/dim] balcap run -S train.reward_weights.recall=2 -S train.steps=50
    [dim]$[/dim] balcap run --apply          [dim]# results into reports/, models/, dvc.lock[/dim]
    [dim]$[/dim] balcap run prepare          [dim]# this stage and what it needs[/dim]
    """
    _finish(_execute(_asked(tuple(targets or ()), recipe, tuple(overrides or ()), name, apply, force)))


@app.command()
def resume(
    name: Annotated[str | None, typer.Argument(help="A paused run; without it, those there are.")] = None,
) -> None:
    """Go on with a run that one of its alarms paused: exactly that run, whatever changed here meanwhile.

    Its alarm is accepted and pauses no more until it was silent. A run that is not resumed is abandoned.

    [dim]$[/dim] balcap resume               [dim]# which runs are paused[/dim]
    [dim]$[/dim] balcap resume swift-otter
    """
    from flows._paused import names, recall
    from flows.request import RunRequest

    with explained():
        if name is None:
            print("\n".join(names(_checkout())) or "no run is paused")
            return
        recall(_checkout(), name)
        request = RunRequest.model_validate({"name": name, "resume": True})
    _finish(_execute(request))


def _finish(result: RunResult) -> None:
    print(f"\nrun {result.name} is complete")
    _print_names(result)


@app.command()
def demo() -> None:
    """Run everything on the embedded default and show what became better. Results land in the working tree."""
    from balcap.params import load_params
    from balcap.recipes import apply_recipe

    with explained():
        checkout = _checkout()
        if not (checkout / "params.yaml").exists():
            apply_recipe(checkout, "embedded")
        elif (held := load_params(checkout / "params.yaml").recipe) != "embedded":
            use = "`balcap recipe apply embedded`, or run what it holds: `balcap run --apply`"
            fail(f"params.yaml: recipe = {held}; the demo is embedded: {use}", 2)
    result = _execute(_asked((), None, (), None, True, False))
    from flows.demo import print_captions, print_metrics

    print_captions(checkout)
    print_metrics(checkout)
    print(f"\nreport        {checkout / 'reports/evaluate/report.html'}")
    _print_names(result)


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
) -> None:
    """Show the Prefect and MLflow UIs on this machine, over the state that runs left. Ctrl-C ends both."""
    from flows.ui import serve

    with explained():
        serve(_checkout(), prefect_port, mlflow_port)


def _asked(
    targets: tuple[str, ...], recipe: str | None, overrides: tuple[str, ...], name: str | None, apply: bool, force: bool
) -> RunRequest:
    from pydantic import ValidationError

    from flows.request import RunRequest

    with explained():
        try:
            return RunRequest(
                recipe=recipe, overrides=overrides, name=name, apply=apply, targets=targets, force=force, resume=False
            )
        except ValidationError as error:
            fault = error.errors()[0]
            fail(f"--{fault['loc'][0]} {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}", 2)


def _execute(request: RunRequest) -> RunResult:
    from flows.local import RunFailed, RunPaused, execute
    from steps._stage import PAUSED

    with explained():
        try:
            return execute(request, _checkout())
        except RunPaused as paused:
            print(f"paused: {paused}")
            raise typer.Exit(PAUSED) from None
        except RunFailed as error:
            fail(f"{error}; {GO_ON}" if error.cancelled else str(error), CANCELLED if error.cancelled else 1)


def _checkout() -> Path:
    from flows._git import checkout_of

    return checkout_of(Path.cwd())


@contextmanager
def explained() -> Iterator[None]:
    """Faults that their message explains end with it, without a traceback."""
    from balcap.files import Busy
    from balcap.params import ParamsError
    from flows._dvc import DvcFault, OverrideError
    from flows._git import GitFault
    from flows._paused import NotPaused
    from flows._server import ServerFault
    from flows._worktree import NameTaken

    try:
        yield
    except (Busy, ParamsError, DvcFault, OverrideError, GitFault, ServerFault, NameTaken, NotPaused) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C", CANCELLED)


def _print_names(result: RunResult) -> None:
    print(f"Prefect       flow run {result.name} (balcap ui)")
    print(f"DVC           experiment {result.name} (dvc exp show)")
    print(f"MLflow        run {result.name} (balcap ui)")


if __name__ == "__main__":
    app()
