"""The model card: markdown rendered from recorded facts only, without a clock, so that it can be hashed.

Captions, sources and authors come from models and users: they are escaped for markdown and HTML before they appear.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.parquet as pq

from balcap.params import Params

METRICS = (
    *("precision", "recall", "linguistic", "b_capscore", "qa_accuracy", "arena", "words", "length_ratio"),
    *("repetition", "hedging", "self_praise"),
)
EXAMPLES = 3
SOURCES = 12
"""Sources listed one by one; the manifest has them all."""
GATES = ("images", "references")
TEMPLATE = Path(__file__).with_name("card.md.j2")


def render_card(facts: dict[str, Any]) -> str:
    """The card's markdown; raises ``jinja2.UndefinedError`` when a fact is missing."""
    environment = jinja2.Environment(  # markdown, not HTML: `plain` escapes for both
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"plain": plain, "number": number, "interval": interval}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(facts)


def read_facts(root: Path, params: Params, weights: str, base_weights: str) -> dict[str, Any]:
    """Everything that the template names, from the stages' outputs below ``root`` and the parameters."""
    reports = root / "reports"
    return {
        "name": params.register_.name,
        "purpose": params.register_.purpose,
        "limits": params.register_.limits,
        "judge": params.evaluate.judge,
        "training_judge": params.train.judge,
        "evaluate": params.evaluate,
        "train": params.train,
        "weights": weights,
        "base_weights": base_weights,
        "data": data_facts(root / "data/manifest.parquet"),
        "metrics": [(key, _metric_rows(reports, key)) for key in METRICS],
        "training": sorted(_read_json(reports / "train/summary.json").items()),
        "gates": [(gate, sorted(_read_json(reports / f"validation/{gate}/summary.json").items())) for gate in GATES],
        "examples": examples(reports / "evaluate/samples.parquet"),
    }


def data_facts(manifest: Path) -> dict[str, Any]:
    """Pictures per split and licence, and the most frequent sources with their authors."""
    table = pq.read_table(manifest, columns=["split", "license", "source", "author"]).to_pylist()
    sources = Counter((row["source"] or "", row["author"] or "", row["license"] or "") for row in table)
    ranked = sorted(sources.items(), key=lambda item: (-item[1], item[0]))
    return {
        "splits": sorted(Counter(row["split"] for row in table).items()),
        "licenses": sorted(Counter(row["license"] or "unknown" for row in table).items()),
        "sources": ranked[:SOURCES],
        "more_sources": max(len(ranked) - SOURCES, 0),
    }


def examples(samples: Path) -> list[dict[str, str]]:
    """The first pictures (by ``image_id``) that base and policy both captioned: reference, before, after."""
    columns = ["image_id", "model", "caption", "reference"]
    found: dict[str, dict[str, str]] = {}
    for row in pq.read_table(samples, columns=columns).to_pylist():
        entry = found.setdefault(row["image_id"], {"image_id": row["image_id"], "reference": row["reference"]})
        entry[row["model"]] = row["caption"]
    return [entry for _, entry in sorted(found.items()) if {"base", "policy"} <= set(entry)][:EXAMPLES]


def plain(text: object, limit: int = 300) -> str:
    """Text that markdown and HTML show as it is, on one line, cut at ``limit`` characters."""
    line = " ".join(str(text).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    return html.escape(re.sub(r"([\\`*_{}\[\]()#+!|~:@$^=/])", r"\\\1", line), quote=False)


def number(value: float | int | str | bool | None) -> str:
    """A number in at most four significant digits; unknown as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else plain(value)


def interval(entry: dict[str, Any], sign: bool = False) -> str:
    """``0.512 [0.490, 0.534]``; a difference carries its sign."""
    if entry["value"] is None:
        return "–"
    text = f"{entry['value']:+.3f}" if sign else f"{entry['value']:.3f}"
    return text if entry["low"] is None else f"{text} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _metric_rows(reports: Path, key: str) -> dict[str, Any]:
    metrics = _read_json(reports / "evaluate/metrics.json")
    return {side: metrics[side][key] for side in ("base", "policy", "difference")}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
