"""What a finished run leaves in ``reports/train``: equal runs give equal bytes, so no time, host or version."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from balcap.advantages.base import Array, mean
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

    ``reward`` is the weighted mean of the rewards' means over the first and the last :data:`WINDOW` steps (fewer in
    short runs), each over the steps in which it is known; a reward that is unknown throughout one of the two is in
    neither. The interval of its rise is a bootstrap over these steps.
    """
    window = max(1, min(WINDOW, len(rows) // 2))
    first, last = rows[:window], rows[-window:]
    before, after, weights = _compared(first, last, params)
    start, end = float(_level(before, weights)), float(_level(after, weights))
    low, high = _interval(before, after, weights, params.seed)
    found = {
        "steps": len(rows),
        "captions": len(rows) * params.global_batch_size,
        "reward_first": start,
        "reward_last": end,
        "reward_rise": end - start,
        "reward_rise_low": low,
        "reward_rise_high": high,
        **{f"{name}_last": _mean(last, f"reward/{name}/mean") for name in rewards},
        "words_last": _mean(last, "length/words"),
        "masked_last": _mean(last, "length/masked"),
        "judge_failure_rate": _mean(rows, "judge/failure_rate"),
        "alarms": len(replay(rows, params.alarms, rewards)[1]),
    }
    return {name: None if np.isnan(value) else round(float(value), 6) for name, value in found.items()}


def _compared(first: Rows, last: Rows, params: Train) -> tuple[Array, Array, Array]:
    """Means of the K rewards that both windows know, NaN where a step does not; [steps, K] each, and the weights [K].

    A step that knows none of them is left out.
    """
    names, weights = list(params.reward_weights), np.array(list(params.reward_weights.values()))
    columns = [f"reward/{name}/mean" for name in names]
    tables = [np.array([[row[c] for c in columns] for row in part], dtype=np.float64) for part in (first, last)]
    both = np.all([~np.isnan(table).all(axis=0) for table in tables], axis=0) & (weights > 0.0)
    before, after = (table[~np.isnan(table[:, both]).all(axis=1)][:, both] for table in tables)
    return before, after, weights[both] / weights[both].sum()


def _level(steps: Array, weights: Array) -> Array:
    """Weighted mean [...] of K rewards' means over the steps that know them [..., steps, K]; NaN if one has none."""
    known = ~np.isnan(steps).all(axis=-2)
    means = np.where(known, mean(steps, axis=-2)[..., 0, :], np.nan)
    return means @ weights if len(weights) else np.full(steps.shape[:-2], np.nan)


def _mean(rows: Rows, name: str) -> float:
    known = [row[name] for row in rows if row[name] is not None]
    return sum(known) / len(known) if known else float("nan")


def _interval(before: Array, after: Array, weights: Array, seed: int) -> tuple[float, float]:
    """Percentile bootstrap of the difference of levels, drawing steps; draws that miss a reward do not count."""
    if not len(weights):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    draws = [_level(part[rng.integers(0, len(part), (DRAWS, len(part)))], weights) for part in (before, after)]
    low, high = np.nanquantile(draws[1] - draws[0], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
