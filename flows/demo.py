"""What ``make demo`` ends with: a few held-out pictures' captions before and after, and the table of metrics."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from balcap.params import load_params

PICTURES = 4
REWARDS = ("precision", "recall", "linguistic")
WIDTH = 100


def print_captions(root: Path, count: int = PICTURES) -> None:
    """Reference, base and policy caption of the first held-out pictures, with their rewards."""
    rows = pq.read_table(root / "reports/evaluate/samples.parquet").to_pylist()
    for image_id, base, policy in pairs(rows)[:count]:
        print(f"\npicture {image_id[:12]}")
        _paragraph("reference", policy["reference"], "")
        _paragraph("before", base["caption"], rewards(base))
        _paragraph("after", policy["caption"], rewards(policy))


def pairs(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Rows of the sample table as ``(image_id, base, policy)``, by image id: neither the best nor the worst chosen."""
    by_image: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(row["image_id"], {})[row["model"]] = row
    return [(key, both["base"], both["policy"]) for key, both in sorted(by_image.items()) if len(both) == 2]


def rewards(row: Mapping[str, Any]) -> str:
    """``precision 0.50, recall 0.25, linguistic 1.00``; what is unknown is left out."""
    known = {name: row[name] for name in REWARDS if row[name] is not None and row[name] == row[name]}
    return ", ".join(f"{name} {value:.2f}" for name, value in known.items())


def _paragraph(title: str, text: str, note: str) -> None:
    lines = textwrap.wrap(text or "(empty)", WIDTH - 12) + ([f"({note})"] if note else [])
    for i, line in enumerate(lines):
        print(f"  {title if i == 0 else '':<10}{line}")


def print_metrics(root: Path) -> None:
    """The metric table with its intervals, from ``reports/evaluate/metrics.json``."""
    metrics = json.loads((root / "reports/evaluate/metrics.json").read_text(encoding="utf-8"))
    confidence = load_params(root / "params.yaml").evaluate.confidence
    title = f"held-out pictures, with {confidence:.0%} intervals"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("metric", "base", "policy", "difference"):
        table.add_column(column, justify="left" if column == "metric" else "right", no_wrap=True)
    for name in metrics["policy"]:
        table.add_row(name, *(cell(metrics[who][name]) for who in ("base", "policy", "difference")))
    print()
    Console(width=WIDTH).print(table)


def cell(score: Mapping[str, Any]) -> str:
    """``0.512 [0.498, 0.526]``; a dash for what does not apply."""
    if score["value"] is None:
        return "–"
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"
