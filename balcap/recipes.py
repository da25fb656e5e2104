"""Recipes: complete parameter files under ``recipes/``, one per experiment.

apply_recipe(Path(), "embedded")        # params.yaml is now a copy of recipes/embedded.yaml
"""

from __future__ import annotations

import subprocess
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


def apply_recipe(root: Path, name: str, force: bool = False) -> Params:
    """Make a recipe ``params.yaml``, whole or not at all.

    Raises :class:`ParamsError` if it is faulty, and without ``force`` if ``params.yaml`` holds what is kept nowhere.
    """
    path, target = recipe_path(root, name), root / "params.yaml"
    params = load_params(path)
    if not force and target.exists() and not _is_kept(root, target.read_bytes()):
        raise ParamsError(
            "params.yaml holds changes that neither a recipe nor the last commit has; keep them (git commit, or a copy "
            "under recipes/), or replace them with --force"
        )
    with atomic_path(target) as tmp:
        tmp.write_bytes(path.read_bytes())
    return params


def _is_kept(root: Path, content: bytes) -> bool:
    """Whether a recipe or the last commit holds these bytes."""
    if any((root / FOLDER / f"{name}.yaml").read_bytes() == content for name in recipe_names(root)):
        return True
    done = subprocess.run(["git", "show", "HEAD:./params.yaml"], cwd=root, capture_output=True, timeout=60)
    return done.returncode == 0 and done.stdout == content
