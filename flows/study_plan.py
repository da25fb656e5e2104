"""Which runs a study is made of, and what each is called, so that a finished one is recognised.

    runs = plan_runs(checkout, chosen("paper"), seeds=3)

The name of a run holds a hash of everything that decides its result: the code and the parameters of its stages. An
experiment of that name is that run, whatever commit it was made at; changed code or parameters make another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from balcap import workspace
from balcap.hashing import content_md5
from balcap.params import check_params, read_params
from balcap.recipes import recipe_path
from balcap.study.arms import Arm, warmstart_seed
from flows import _dvc

LAST, SHARED = "evaluate", "warmstart"
"""The stage that a run ends with, and the last one that arms of one warm start have in common."""


@dataclass(frozen=True)
class Start:
    """What arms share: a recipe whose stages up to ``warmstart`` are theirs, and a seed of the warm start."""

    recipe: str
    seed: int

    @property
    def overrides(self) -> tuple[str, ...]:
        """What to change in the recipe."""
        return (f"warmstart.seed={self.seed}",)


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed; ``name`` is that of the experiment it becomes."""

    arm: Arm
    seed: int
    start: Start
    name: str

    @property
    def overrides(self) -> tuple[str, ...]:
        """What to change in the arm's recipe."""
        return (*self.start.overrides, f"train.seed={self.seed}")


def plan_runs(checkout: Path, arms: Sequence[Arm], seeds: int) -> list[ArmRun]:
    """All runs, seed after seed; the recipes are checked. Raises ``ParamsError`` and ``DvcFault``."""
    stages = [stage.name for stage in _dvc.plan(checkout, [LAST])]
    shared = stages[: stages.index(SHARED) + 1]
    recipes = {arm.name: read_params(recipe_path(checkout, arm.recipe)) for arm in arms}
    for name, raw in recipes.items():
        check_params(raw, f"recipes/{name}.yaml")
    first: dict[str, str] = {}
    """The first recipe with the same stages up to the warm start, by their hash."""
    runs = []
    for seed in range(seeds):
        for arm in arms:
            raw = _with_seeds(recipes[arm.name], seed)
            start = Start(first.setdefault(version(checkout, raw, shared), arm.recipe), warmstart_seed(seed))
            runs.append(ArmRun(arm, seed, start, f"{arm.recipe}-s{seed}-{version(checkout, raw, stages)}"))
    return runs


def _with_seeds(raw: dict[str, Any], seed: int) -> dict[str, Any]:
    return raw | {
        "warmstart": raw["warmstart"] | {"seed": warmstart_seed(seed)},
        "train": raw["train"] | {"seed": seed},
    }


def version(checkout: Path, raw: dict[str, Any], stages: Sequence[str]) -> str:
    """Short hash of the code and the parameters of ``stages``."""
    specs = workspace.stages(checkout)
    facts = {
        name: {
            "params": {key: workspace.value_of(raw, key) for key in specs[name].get("params", [])},
            "code": {
                dep: _content(checkout / dep)
                for dep in sorted(workspace.resolve(dep, raw) for dep in specs[name].get("deps", []))
                if dep.startswith(("steps/", "balcap/"))
            },
        }
        for name in stages
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


@cache
def _content(path: Path) -> str:
    return content_md5(path)
