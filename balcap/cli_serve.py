"""``balcap serve …``: endpoints for judges, on loopback, in the foreground until Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from balcap.cli_fail import fail as _fail  # an option of the oracle is called fail

if TYPE_CHECKING:
    from balcap.serve.vllm import Setup

ORACLE_PORT = 8731
JUDGE_PORT = 8732
CALIBRATION = 100
"""Pictures of the calibration's own that the oracle knows beside those of a run."""

app = typer.Typer(
    help="""Endpoints for judges, on loopback, in the foreground until Ctrl-C.

    [dim]$[/dim] balcap serve oracle          [dim]# the truth of drawn pictures, as a language model would say it[/dim]
    [dim]$[/dim] balcap serve judge --model DIR  [dim]# a real model, in vLLM (`make vllm` installs it)[/dim]

    A recipe finds a model under runtime.serving.MODEL.urls.
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
Data = Annotated[Path, typer.Option(help="Folder of stored pictures, as `prepare` writes it.")]
Port = Annotated[int, typer.Option(help="Port on loopback; the recipes expect the default.")]
FAIL = "Share of the questions that get no answer in form, however often they are asked: as many parts stay unknown."
Fail = Annotated[float, typer.Option(min=0.0, max=1.0, help=FAIL)]


@app.command()
def oracle(data: Data = Path("data/images"), port: Port = ORACLE_PORT, fail: Fail = 0.0) -> None:
    """Answer a judge's calls from the truth of the drawn pictures in data/images (`balcap run --recipe embedded`).

    Also of the first 100 that `balcap judge calibrate` and `check` draw.
    """
    from itertools import chain

    from aiohttp import web

    from balcap.calibration.labelled import scenes_set
    from balcap.records_io import read_samples
    from balcap.serve.oracle import MODEL, Oracle, make_app

    drawn = (case.picture.sample for case in scenes_set(CALIBRATION, seed=0))
    truth = Oracle(chain(read_samples(data), drawn), fail)
    if len(truth.scenes) <= CALIBRATION:
        _fail(f"{data}: no drawn pictures there; `balcap run --apply prepare` draws some, or name another --data")

    def listening(*_: object) -> None:
        print(f"{len(truth.scenes)} pictures; runtime.serving.{MODEL}.urls: ['http://127.0.0.1:{port}/v1']", flush=True)

    try:
        web.run_app(make_app(truth), host="127.0.0.1", port=port, print=listening, handle_signals=True)
    except OSError as error:
        _fail(f"port {port}: {error.strerror or error}; end what listens there, or name another --port")


@app.command(context_settings={"allow_extra_args": True})
def judge(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="Folder of the model: config.json, weights, tokenizer.")],
    name: Annotated[str, typer.Option(help="What recipes call it; without this, the folder's name.")] = "",
    port: Annotated[int, typer.Option(help="Port on loopback.")] = JUDGE_PORT,
    length: Annotated[int, typer.Option(help="Longest prompt and answer together, in tokens.")] = 8192,
    vllm: Annotated[Path | None, typer.Option(help="vLLM's program; else .venv-vllm/bin/vllm, then the PATH.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds until it must be healthy.")] = 1800.0,
) -> None:
    """Serve a model of your own in vLLM as a judge; what stands behind -- goes to `vllm serve`.

    [dim]$[/dim] make vllm smollm2                         [dim]# vLLM for CPU, and a small real model[/dim]
    [dim]$[/dim] balcap serve judge --model .work/models/SmolLM2-135M-Instruct
    [dim]$[/dim] balcap serve judge --model DIR --vllm ~/vllm/bin/vllm -- --data-parallel-size 8     [dim]# GPUs[/dim]
    """
    from balcap.serve.vllm import ServeError, Setup, last_words, served
    from balcap.workspace import work_root

    for number in (signal.SIGTERM, signal.SIGHUP):  # like Ctrl-C: the block below ends, and vLLM with it
        signal.signal(number, _interrupt)
    log = work_root() / "serve" / f"judge-{port}.log"
    setup = Setup(model, name or model.resolve().name, port, length, vllm, tuple(context.args))
    print(f"vLLM starts; log: {log}", flush=True)
    try:
        with served(setup, log=log, deadline=deadline, say=_say) as process:
            print(_ready(setup), flush=True)
            status = process.wait()
            _fail(f"vLLM ended by itself with status {status}; {last_words(log)}")
    except ServeError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print("vLLM has ended", flush=True)


def _ready(setup: Setup) -> str:
    """The endpoint, and the lines that a recipe needs."""
    return f"""healthy: {setup.url}; Ctrl-C ends it. In params.yaml or a recipe:
runtime:
  serving:
    {setup.name}: {{urls: ["{setup.url}"], api_key_env: null, in_flight: 64, timeout: 120.0, retries: 3}}"""


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
