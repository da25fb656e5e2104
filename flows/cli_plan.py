"""``balcap plan``: what a training run will need, before anything starts.

balcap plan --recipe qwen2.5-vl-7b --gpus 8 --gpu-memory 80
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated

import typer

from balcap.cli_fail import fail


def plan(
    recipe: Annotated[str | None, typer.Option("--recipe", "-r", help="Recipe; default: params.yaml.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs of training, all machines together; default: runtime.launch.")
    ] = None,
    gpu_memory: Annotated[float, typer.Option(min=0.1, help="Of one GPU, GB (10^9 bytes).")] = 80.0,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set-param", "-S", metavar="KEY=VALUE", help="Change a parameter, as DVC does."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: bytes, tokens, seconds.")] = False,
    caption_tokens: Annotated[int, typer.Option(min=1, help="Of a typical caption, for judge and hours.")] = 256,
    tflops: Annotated[float, typer.Option(min=0.01, help="Of one GPU in bfloat16, dense; default: H100.")] = 989.0,
    bandwidth: Annotated[float, typer.Option(min=0.001, help="Of one GPU's memory, TB/s; default: H100.")] = 3.35,
    mfu: Annotated[float, typer.Option(min=0.001, max=1.0, help="Share of the FLOP/s that training reaches.")] = 0.35,
) -> None:
    """Predict memory, judge calls and hours of a training run; exit code 1 if it cannot fit.

    Nothing is started, downloaded or loaded: the captioner's config.json is enough, and for LLaVA-1.5-7B,
    Qwen2.5-VL-3B and -7B not even that. What does not fit is refused with the setting to change.
    Memory is computed, hours are an estimate whose assumptions are printed.

    [dim]$[/dim] balcap plan --recipe qwen2.5-vl-7b --gpus 8 --gpu-memory 80
    [dim]$[/dim] balcap plan -r llava-1.5-7b --gpus 1 --gpu-memory 24 -S runtime.launch.deepspeed=none
    [dim]$[/dim] balcap plan -r llava-1.5-7b -S train.micro_batch_size=8 --json
    """
    from balcap.params import ParamsError
    from flows._dvc import OverrideError
    from flows.request import RunRequest, check

    try:
        params = check(Path.cwd(), RunRequest.model_validate({"recipe": recipe, "overrides": changes or ()}))
    except (ParamsError, OverrideError) as error:
        fail(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's notes about names that it is about to drop
        from rich.console import Console

        from balcap.plan import Machine
        from balcap.plan import plan as make
        from balcap.plan.show import as_json as numbers
        from balcap.plan.show import tables

        machine = Machine(gpu_memory * 1e9, tflops * 1e12, mfu, bandwidth * 1e12)
        try:
            found = make(params, Path(), gpus, caption_tokens, machine)
        except ValueError as error:  # parameters, captioner or launch: each names key and remedy
            fail(str(error))
    if as_json:
        print(json.dumps(numbers(found), indent=1))
    else:
        Console(width=120).print(tables(found))
    if found.faults:
        fail("\nerror: ".join(found.faults))
