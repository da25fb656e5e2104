"""Which runs a study is made of, and what each is called, so that a finished one is recognised.

    runs = plan_runs(checkout, chosen("paper"), seeds=3)

The name of a run holds a hash of what decides its result, as far as the project knows it: the code and the parameters
of its stages, the number of threads, and the versions of the libraries that train. An experiment of that name counts as
that run, whatever commit it was made at; what changed makes another name. The processor and other libraries are not in
it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed
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
LIBRARIES = ("torch", "transformers", "trl")


@dataclass(frozen=True)
class Start:
    """What arms share: a recipe whose stages up to ``warmstart`` are theirs, and a seed of the warm start."""

    recipe: str
    seed: int

    @property
    def seeds(self) -> dict[str, int]:
        """What to change in the recipe."""
        return {"warmstart.seed": self.seed}


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed; ``name`` is that of the experiment it becomes."""

    arm: Arm
    seed: int
    start: Start
    name: str

    @property
    def seeds(self) -> dict[str, int]:
        """What to change in the arm's recipe."""
        return seeds_of(self.seed)


def seeds_of(seed: int) -> dict[str, int]:
    """The parameters that one seed of the study stands for."""
    return {"warmstart.seed": warmstart_seed(seed), "train.seed": seed}


def plan_runs(checkout: Path, arms: Sequence[Arm], seeds: int) -> list[ArmRun]:
    """All runs, seed after seed; the recipes are checked. Raises ``ParamsError`` and ``DvcFault``."""
    _content.cache_clear()  # files may have changed since the last plan
    stages = [stage.name for stage in _dvc.plan(checkout, [LAST])]
    shared = stages[: stages.index(SHARED) + 1]
    recipes = {arm.name: read_params(recipe_path(checkout, arm.recipe)) for arm in arms}
    for arm in arms:
        check_params(recipes[arm.name], f"recipes/{arm.recipe}.yaml")
    first: dict[str, str] = {}
    """The first recipe with the same stages up to the warm start, by their hash."""
    runs = []
    for seed in range(seeds):
        for arm in arms:
            raw = _with(recipes[arm.name], seeds_of(seed))
            start = Start(first.setdefault(version(checkout, raw, shared), arm.recipe), warmstart_seed(seed))
            runs.append(ArmRun(arm, seed, start, f"{arm.recipe}-s{seed}-{version(checkout, raw, stages)}"))
    return runs


def _with(raw: dict[str, Any], seeds: Mapping[str, int]) -> dict[str, Any]:
    changed = dict(raw)
    for name, seed in seeds.items():
        section, key = name.split(".")
        changed[section] = changed[section] | {key: seed}
    return changed


def version(checkout: Path, raw: dict[str, Any], stages: Sequence[str]) -> str:
    """Short hash of the code and the parameters of ``stages``, of threads and libraries."""
    specs = workspace.stages(checkout)
    facts: dict[str, Any] = {
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
    facts["threads"] = workspace.value_of(raw, "runtime.threads")
    facts["libraries"] = {name: installed(name) for name in LIBRARIES}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


@cache
def _content(path: Path) -> str:
    return content_md5(path)
