"""What a run leaves to be read in Prefect: one markdown artifact per stage, one per run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from balcap.progress import duration
from flows._dvc import Planned, Stored, flatten

Values = Mapping[str, Any]
Changes = Mapping[str, tuple[Any, Any]]


def metric_values(root: Path, stage: Planned) -> dict[str, Any]:
    """Numbers in the metric files of a stage, ``{"file: key": value}``; files that are not there have none."""
    values: dict[str, Any] = {}
    for out in stage.outs:
        path = root / out.path
        if out.metric and path.suffix == ".json" and path.exists():
            flat = flatten(json.loads(path.read_text(encoding="utf-8")))
            values |= {f"{out.path}: {key}": value for key, value in flat.items()}
    return values


def changes(before: Values, after: Values) -> dict[str, tuple[Any, Any]]:
    """What differs between two sets of values, ``{key: (before, after)}``; ``None`` where there was none."""
    keys = [*after, *(key for key in before if key not in after)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def stage_markdown(
    stage: Planned,
    *,
    state: str,
    seconds: float,
    reason: str,
    metrics: Changes,
    outs: Sequence[Stored],
    made_by: str | None,
    tail: Sequence[str] = (),
) -> str:
    """The artifact of one stage: verdict, duration, why, metrics, outputs; the last lines if it failed."""
    parts = [
        f"## {stage.name}: {state}",
        stage.desc,
        table(("state", "took", "why"), [(state, duration(seconds), reason)]),
        changes_table("Metrics", "before", "now", metrics),
    ]
    if outs:
        rows = [(f"`{out.path}`", f"`{out.md5}`", size(out.size), out.files or 1) for out in outs]
        parts += ["### Outputs", table(("path", "md5", "size", "files"), rows)]
    if made_by:
        parts.append(f"Made by MLflow run `{made_by}`.")
    if tail:
        parts += ["### Last lines", "```", *tail, "```"]
    return "\n\n".join(part for part in parts if part) if not tail else _with_block(parts)


def _with_block(parts: Sequence[str]) -> str:
    """Join paragraphs, but keep the lines of the code block at the end together."""
    start = parts.index("```")
    return "\n\n".join(part for part in parts[:start] if part) + "\n\n" + "\n".join(parts[start:])


def run_markdown(
    name: str, baseline: str, stages: Mapping[str, tuple[str, str]], differences: Mapping[str, Changes]
) -> str:
    """The artifact of a run: state and reason of each stage, parameters and metrics against the commit it stands on."""
    parts = [
        f"## {name}",
        f"DVC experiment `{name}` on commit `{baseline[:7]}` (`dvc exp show`, `dvc exp apply {name}`); MLflow parent "
        f"run `{name}`.",
        table(("stage", "state", "why"), [(stage, *verdict) for stage, verdict in stages.items()]),
        changes_table("Parameters", f"commit {baseline[:7]}", "this run", differences["params"]),
        changes_table("Metrics", f"commit {baseline[:7]}", "this run", differences["metrics"]),
    ]
    return "\n\n".join(part for part in parts if part)


def changes_table(title: str, old: str, new: str, values: Changes) -> str:
    """A titled table of what changed; empty when nothing did."""
    if not values:
        return ""
    rows = [(f"`{key}`", number(a), number(b), difference(a, b)) for key, (a, b) in values.items()]
    return f"### {title}\n\n" + table(("name", old, new, "change"), rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def number(value: Any) -> str:
    """A value as a person reads it: four digits, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def difference(old: Any, new: Any) -> str:
    """``+0.12`` for two numbers, nothing otherwise."""
    both = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    return f"{new - old:+.4g}" if both else ""


def size(count: int) -> str:
    """Bytes as ``12 B``, ``3.4 MB``."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"
