"""What evaluation writes for programs: metrics.json, summary.json (what a reviewer compares), samples.parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from balcap.evaluation.cases import COLUMNS, MODELS, Case, Row
from balcap.evaluation.stats import Score
from balcap.files import write_json
from balcap.records import Judgement
from balcap.records_io import write_table

SAMPLES = pa.schema(
    [
        ("image_id", pa.string()),
        ("model", pa.string()),
        ("caption", pa.string()),
        ("truncated", pa.bool_()),
        ("reference", pa.string()),
        *[(name, pa.float64()) for name in COLUMNS],
        ("judgement", pa.string()),
    ]
)
SUMMARY = ("b_capscore", "precision", "recall", "linguistic", "qa_accuracy", "arena", "words")
GAINS = ("b_capscore", "qa_accuracy", "arena")
DIGITS = 6
"""Far below the sampling error, so that tables stay readable."""


def write_metrics(path: Path, scores: dict[str, dict[str, Score]]) -> None:
    """``{"base": {metric: {value, low, high, n}}, "policy": …, "difference": …}``."""
    write_json(path, {part: {name: _rounded(score) for name, score in rows.items()} for part, rows in scores.items()})


def write_summary(path: Path, scores: dict[str, dict[str, Score]]) -> None:
    """Some ten flat numbers: the policy's scores, and by how much it differs; what is unknown is left out."""
    flat = {name: scores["policy"][name].value for name in SUMMARY}
    flat |= {f"{name}_gain": scores["difference"][name].value for name in GAINS}
    write_json(path, {name: round(value, DIGITS) for name, value in flat.items() if value is not None})


def write_samples(path: Path, cases: Sequence[Case]) -> None:
    """One row per picture and model, base before policy."""
    write_table(path, [_sample(case, model) for case in cases for model in MODELS], SAMPLES)


def _sample(case: Case, model: str) -> dict[str, Any]:
    row: Row = getattr(case, model)
    return {
        "image_id": case.picture.sample.image_id,
        "model": model,
        "caption": row.caption.text,
        "truncated": row.caption.truncated,
        "reference": case.picture.reference.caption,
        **{name: row.scores[name] for name in COLUMNS},
        "judgement": judgement_json(row.judgement),
    }


def judgement_json(judgement: Judgement) -> str:
    """All parts of a judgement, unknown ones as null."""
    return json.dumps(asdict(judgement), ensure_ascii=False, sort_keys=True)


def _rounded(score: Score) -> dict[str, float | int | None]:
    return {k: round(v, DIGITS) if isinstance(v, float) else v for k, v in score.to_json().items()}
