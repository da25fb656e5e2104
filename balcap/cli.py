"""The command line: ``balcap --help``. Commands of the library stand here; those that start flows in ``flows/cli.py``.

Nothing heavy is imported before a command needs it, so that help answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from balcap.cli_caption import caption
from balcap.cli_fail import fail
from balcap.cli_judge import judge
from balcap.cli_serve import app as serve

app = typer.Typer(
    help="""Turns a folder of images into a better captioner, and proves that it is better.

    Start with [bold]balcap demo[/bold] (or [bold]make demo[/bold]): the whole pipeline on a small drawn world, in about
    ten minutes. Then change something and run it as an experiment:

    [dim]$[/dim] balcap run -S train.reward_weights.recall=2 --name more-recall
    [dim]$[/dim] dvc exp show          [dim]# every run is a DVC experiment[/dim]
    [dim]$[/dim] balcap ui             [dim]# Prefect and MLflow in the browser[/dim]
    """,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
recipes = typer.Typer(
    help="""Recipes: complete parameter files under recipes/, one per experiment.

    [dim]$[/dim] balcap recipe list
    [dim]$[/dim] balcap recipe show embedded
    [dim]$[/dim] balcap recipe apply photos    [dim]# makes it params.yaml[/dim]
    """,
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(recipes, name="recipe")
app.add_typer(judge, name="judge")
app.command()(caption)
app.add_typer(serve, name="serve")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Recipe, as `balcap recipe list` names it.")]


@recipes.command("list")
def list_() -> None:
    """Name the recipes, each with what it is for."""
    from balcap.recipes import recipe_names, recipe_summary

    names = recipe_names(Path())
    for name in names:
        print(f"{name:<{max(map(len, names))}}  {recipe_summary(Path(), name)}")


@recipes.command()
def show(name: Name) -> None:
    """Print a recipe."""
    from balcap.params import ParamsError
    from balcap.recipes import recipe_path

    try:
        print(recipe_path(Path(), name).read_text(encoding="utf-8"), end="")
    except ParamsError as error:
        fail(str(error))


@recipes.command()
def apply(
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also over changes of params.yaml that are kept nowhere.")
    ] = False,
) -> None:
    """Make a recipe params.yaml, after checking it."""
    from balcap.params import ParamsError
    from balcap.recipes import apply_recipe

    try:
        apply_recipe(Path(), name, force)
    except ParamsError as error:
        fail(str(error))
    print(f"params.yaml is now recipe {name}; `balcap run` runs it")
