"""``balcap study``: the ablation study, and its report from the committed results.

balcap study ablations [--arms paper|all] [--seeds 3]
balcap study report
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from balcap.cli_fail import fail

RESULTS = Path("docs/results/ablations")
"""Where the results of the study and its report stand in a checkout."""
study = typer.Typer(
    help="""Test what the paper claims, in the embedded world, with seeds and intervals.

    [dim]$[/dim] balcap study ablations            [dim]# the paper's arms, 3 seeds: 75 minutes on two cores[/dim]
    [dim]$[/dim] balcap study ablations --arms all
    [dim]$[/dim] balcap study report               [dim]# writes the report again, from the committed results[/dim]
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Arms = Annotated[Literal["paper", "all"], typer.Option(help="The paper's arms, or these and our further ones.")]
Seeds = Annotated[int, typer.Option(min=1, help="Seeds of RL; even and odd ones differ in warm start.")]


@study.command()
def ablations(arms: Arms = "paper", seeds: Seeds = 3) -> None:
    """Run every arm with every seed, two at a time, each as a DVC experiment; then write the report.

    Runs whose experiment exists are not run again: after Ctrl-C, or with more seeds, the same command goes on. The
    report, in docs/results/ablations/, shows every finished arm, of the other group, too; rather than lose results
    that stand there, the command refuses. Claims and thresholds stand in balcap/study/claims.yaml. An arm is a
    recipe, recipes/ablation-NAME.yaml.
    """
    from flows._git import checkout_of
    from flows._server import prefect_server
    from flows.cli import CANCELLED, GO_ON, explained
    from flows.local import terminable

    with explained(), terminable():
        checkout = checkout_of(Path.cwd())
        with prefect_server(checkout):
            from flows.study import study as flow  # Prefect reads its settings when it is imported

            state: Any = flow(checkout, arms, seeds, RESULTS, return_state=True)
    if not state.is_completed():
        fail(f"{state.message}; {GO_ON}", CANCELLED if state.is_cancelled() else 1)
    print(f"\nreport        {checkout / str(state.message)}")


@study.command()
def report() -> None:
    """Write the report again, from docs/results/ablations/data."""
    from balcap.study.data import StudyFault, read_study
    from balcap.study.report import write_report
    from flows._git import checkout_of
    from flows.cli import explained

    with explained():
        folder = checkout_of(Path.cwd()) / RESULTS
    try:
        write_report(read_study(folder / "data"), folder)
    except FileNotFoundError as error:
        fail(f"{error.filename}: no results yet; `balcap study ablations` makes them")
    except StudyFault as error:
        fail(str(error))
    print(folder / "README.md")
