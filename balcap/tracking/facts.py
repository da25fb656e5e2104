"""What a run is tagged with: its parameters, its outputs in ``dvc.yaml``, its commit, experiment and flow run."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from balcap.params import Params


def stage_outputs(stage: str, root: Path = Path()) -> list[str]:
    """Paths of everything that ``dvc.yaml`` says the stage writes; nothing where there is no such file or stage."""
    spec = _graph(root).get(stage, {})
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in spec.get(kind, [])]
    return sorted({entry if isinstance(entry, str) else next(iter(entry)) for entry in entries})


def flat_params(stage: str, params: Params, root: Path = Path()) -> dict[str, str]:
    """The sections that ``dvc.yaml`` lists for the stage, as ``section.key.key``; lists as JSON."""
    sections = _graph(root).get(stage, {}).get("params", [stage])
    values = params.model_dump(mode="json", by_alias=True)
    return dict(_flatten({name: values[name] for name in sections if name in values}))


def identity_tags() -> dict[str, str]:
    """What ties the run to git, DVC and Prefect."""
    values = {
        "git.commit": _git_commit(),
        "dvc.exp": os.environ.get("DVC_EXP_NAME"),
        "dvc.rev": os.environ.get("DVC_EXP_BASELINE_REV"),
        "prefect.flow_run_id": os.environ.get("BALCAP_FLOW_RUN_ID"),
        "prefect.flow_run_url": os.environ.get("BALCAP_FLOW_RUN_URL"),
    }
    return {name: value for name, value in values.items() if value}


def _graph(root: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return {}


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
