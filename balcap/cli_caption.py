"""``balcap caption PICTURE...``: captions from the registered captioner.

balcap caption cat.jpg dog.png
balcap caption --json --model 3 cat.jpg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from balcap.cli_fail import fail


def caption(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.", metavar="PICTURE...", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per picture.")] = False,
    model: Annotated[
        str | None, typer.Option(metavar="VERSION|ALIAS", help="Default: champion, else challenger.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Registered model; default: register.name of params.yaml.")
    ] = None,
) -> None:
    """Print a caption for each picture, written by the registered captioner."""
    from balcap.caption import CaptionError, load_captioner, read_picture
    from balcap.params import ParamsError, load_params

    try:
        params = load_params()
        for path in pictures:  # a wrong file is told before the model is loaded
            read_picture(path)
        captioner = load_captioner(name or params.register_.name, params.runtime.tracking_uri, model)
        captions = captioner.caption(pictures)
    except (CaptionError, ParamsError) as error:
        fail(str(error))
    for path, text in zip(pictures, captions, strict=True):
        if as_json:
            row = {"image": str(path), "caption": text, "model": captioner.name, "version": captioner.version}
            print(json.dumps(row, ensure_ascii=False))
        else:
            print(f"{path}: {text}")
