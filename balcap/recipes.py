"""Recipes: complete parameter files under ``recipes/``, one per experiment.

apply_recipe(Path(), "embedded")        # params.yaml is now a copy of recipes/embedded.yaml
"""

from __future__ import annotations

from pathlib import Path

from balcap.files import atomic_path
from balcap.params import Params, ParamsError, load_params

FOLDER = "recipes"


def recipe_names(root: Path) -> list[str]:
    """Names of the recipes of a checkout, sorted."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def recipe_path(root: Path, name: str) -> Path:
    """File of a recipe; raises :class:`ParamsError` naming those that exist."""
    if name not in recipe_names(root):
        raise ParamsError(f"no recipe {name!r}; there are: {', '.join(recipe_names(root)) or 'none'}")
    return root / FOLDER / f"{name}.yaml"


def recipe_summary(root: Path, name: str) -> str:
    """The first sentence of the comment that opens a recipe."""
    lines = recipe_path(root, name).read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".")


def apply_recipe(root: Path, name: str) -> Params:
    """Make a recipe ``params.yaml``, whole or not at all; raises :class:`ParamsError` if it is faulty."""
    path = recipe_path(root, name)
    params = load_params(path)
    with atomic_path(root / "params.yaml") as tmp:
        tmp.write_bytes(path.read_bytes())
    return params
