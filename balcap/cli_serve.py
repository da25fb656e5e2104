"""``balcap serve …``: endpoints for judges, on loopback, in the foreground until Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ORACLE_PORT = 8731

app = typer.Typer(
    help="""Endpoints for judges, on loopback, in the foreground until Ctrl-C.

    [dim]$[/dim] balcap serve oracle          [dim]# the truth of drawn pictures, as a language model would say it[/dim]

    A recipe finds a model under runtime.serving.MODEL.urls.
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Data = Annotated[Path, typer.Option(help="Folder of stored pictures, as `prepare` writes it.")]
Port = Annotated[int, typer.Option(help="Port on loopback; the recipes expect the default.")]
Fail = Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the questions that are answered out of form.")]


@app.command()
def oracle(data: Data = Path("data/images"), port: Port = ORACLE_PORT, fail: Fail = 0.0) -> None:
    """Answer a judge's calls from the truth of the drawn pictures in data/images (`balcap run --recipe embedded`)."""
    from aiohttp import web

    from balcap.records_io import read_samples
    from balcap.serve.oracle import MODEL, Oracle, make_app

    truth = Oracle(read_samples(data), fail)
    if not truth.scenes:
        print(
            f"error: {data}: no drawn pictures there; `balcap demo` makes some, or name another --data", file=sys.stderr
        )
        raise typer.Exit(1)
    print(f"{len(truth.scenes)} pictures; runtime.serving.{MODEL}.urls: [http://127.0.0.1:{port}/v1]", flush=True)
    web.run_app(make_app(truth), host="127.0.0.1", port=port, print=None, handle_signals=True)
