"""Where things live: the main checkout, its work folder, its tracking store; the key of resumable work.

Results belong to the checkout (or worktree) in which a stage runs; what several runs share (``.work``, ``mlruns``,
``.prefect``) belongs to the main checkout, also when a run works in one of its worktrees. ``BALCAP_WORK`` moves
``.work``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from balcap.hashing import content_md5

TOLERANCES = {"train.judge.max_failure_rate", "train.judge_deadline", "train.alarms"}
"""Parameters that decide whether a run goes on, and nothing of what it does."""


@cache
def main_checkout(start: Path | None = None) -> Path:
    """The checkout that owns the repository: the folder itself, or the one whose worktree (or DVC copy) it is."""
    here = (start or Path.cwd()).resolve()
    for parent in (here, *here.parents):  # `dvc exp run --temp` and `--queue` work in a clone below .dvc/tmp
        if parent.name == ".dvc":
            return parent.parent
    try:
        common = subprocess.run(
            ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"],
            cwd=here, capture_output=True, text=True, check=True, timeout=30,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return here
    return Path(common).parent


def work_root() -> Path:
    """The folder of resumable work, absolute."""
    return Path(os.environ.get("BALCAP_WORK") or main_checkout() / ".work").resolve()


def mlruns() -> Path:
    """The folder of the local tracking store, absolute."""
    return main_checkout() / "mlruns"


def resolve(text: str, params: dict[str, Any]) -> str:
    """Fill DVC's ``${section.key}`` placeholders from parameters; raises ``KeyError`` naming a missing key."""
    return re.sub(r"\$\{([\w.]+)\}", lambda match: str(value_of(params, match[1])), text)


def stages(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """What ``dvc.yaml`` says of each stage, in its order."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return found


def stage_inputs(stage: str, params: dict[str, Any], root: Path = Path()) -> dict[str, str]:
    """Content hash of each dependency that ``dvc.yaml`` lists for ``stage``: its code and its data."""
    deps = sorted({resolve(dep, params) for dep in stages(root)[stage].get("deps", [])})
    return {dep: content_md5(root / dep) for dep in deps}


def value_of(params: dict[str, Any], name: str) -> Any:
    """The value under a dotted name."""
    for part in name.split("."):
        params = params[part]
    return params


def _without(value: Any, name: str) -> Any:
    """A section without the tolerances in it."""
    if not isinstance(value, dict):
        return value
    inner = {key: _without(one, f"{name}.{key}") for key, one in value.items()}
    return {key: one for key, one in inner.items() if f"{name}.{key}" not in TOLERANCES}


def work_key(stage: str, params: dict[str, Any], root: Path = Path()) -> str:
    """Key of resumable work: parameters, inputs and code version of a stage. Equal keys may share work.

    What a run puts up with (:data:`TOLERANCES`) is no part of it: a training that its judge stopped goes on from its
    checkpoint when more is allowed.
    """
    used = {name: _without(value_of(params, name), name) for name in stages(root)[stage].get("params", [])}
    facts = json.dumps({"params": used, "inputs": stage_inputs(stage, params, root)}, sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
