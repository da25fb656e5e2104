"""What a finished run leaves in ``reports/train``: equal runs give equal bytes, so no time, host or version."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from balcap.files import atomic_path
from balcap.params.train import Train
from balcap.records_io import write_table
from balcap.training.alarms import replay
from balcap.training.metrics import metric_names

WINDOW = 10
"""Steps at either end of the run that its summary compares."""
DRAWS = 10_000
CONFIDENCE = 0.95

Rows = Sequence[dict[str, Any]]


def write_curves(path: Path, rows: Rows, rewards: Sequence[str]) -> None:
    """``curves.csv``: step and the metrics of every step; unknown is empty."""
    names = metric_names(rewards)
    with atomic_path(path) as tmp, tmp.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(["step", *names])
        for row in rows:
            values = ["" if row[name] is None else f"{row[name]:.6g}" for name in names]
            writer.writerow([row["step"], *values])


def write_samples(path: Path, rows: Rows, rewards: Sequence[str]) -> None:
    """``samples.parquet``: captions of the fixed pictures with verdict (JSON of the judgement) and rewards."""
    schema = pa.schema(
        [
            ("step", pa.int32()),
            ("image_id", pa.string()),
            ("caption", pa.string()),
            ("truncated", pa.bool_()),
            ("verdict", pa.string()),
            *((name, pa.float64()) for name in rewards),
            ("masked", pa.bool_()),
        ]
    )
    nan = float("nan")
    known = [{**row, **{name: nan if row[name] is None else row[name] for name in rewards}} for row in rows]
    write_table(path, known, schema)


def summary(rows: Rows, rewards: Sequence[str], params: Train) -> dict[str, float | None]:
    """The flat numbers a reviewer reads: means of the last steps, and how far the mean reward rose, with interval.

    ``reward`` is the weighted mean of the rewards; its rise is between the first and the last :data:`WINDOW` steps
    (fewer in short runs), the interval a bootstrap over these steps.
    """
    window = max(1, min(WINDOW, len(rows) // 2))
    first, last = rows[:window], rows[-window:]
    before, after = (np.array([_weighted(row, params) for row in part]) for part in (first, last))
    low, high = _interval(before, after, params.seed)
    found = {
        "steps": len(rows),
        "captions": len(rows) * params.global_batch_size,
        "reward_first": before.mean(),
        "reward_last": after.mean(),
        "reward_rise": after.mean() - before.mean(),
        "reward_rise_low": low,
        "reward_rise_high": high,
        **{f"{name}_last": _mean(last, f"reward/{name}/mean") for name in rewards},
        "words_last": _mean(last, "length/words"),
        "masked_last": _mean(last, "length/masked"),
        "judge_failure_rate": _mean(rows, "judge/failure_rate"),
        "alarms": len(replay(rows, params.alarms, rewards)[1]),
    }
    return {name: None if np.isnan(value) else round(float(value), 6) for name, value in found.items()}


def _weighted(row: dict[str, Any], params: Train) -> float:
    """Weighted mean of the known reward means of one step; NaN if none is known."""
    pairs = [(weight, row[f"reward/{name}/mean"]) for name, weight in params.reward_weights.items()]
    known = [(weight, value) for weight, value in pairs if value is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * value for weight, value in known) / total if total else float("nan")


def _mean(rows: Rows, name: str) -> float:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else float("nan")


def _interval(before: np.ndarray, after: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the difference of means, drawing steps."""
    rng = np.random.default_rng(seed)
    draws = [part[rng.integers(0, len(part), (DRAWS, len(part)))].mean(axis=1) for part in (before, after)]
    low, high = np.quantile(draws[1] - draws[0], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
