"""The benchmarks of the trainer run and print what they promise; two ranks really exchange no picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def lines_of(name: str, *options: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    command = [sys.executable, f"benchmarks/{name}.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    *rows, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for row in rows:
        assert set(row) == {"benchmark", "ratio", "interval", "ours", "against", "goal", "holds"}
        assert row["interval"][0] <= row["ratio"] <= row["interval"][1] + 1e-6
    assert last["holds"] == all(row["holds"] for row in rows)
    return {row["benchmark"].removeprefix(f"{name}/"): row for row in rows}, last


@pytest.mark.slow
def test_two_ranks_send_each_other_no_picture() -> None:
    rows, _ = lines_of("images_between_ranks", "--pairs", "1", "--size", "256", "192")
    assert list(rows) == ["bytes", "seconds"]
    assert rows["bytes"]["ours"] < 20_000 < 16 * 256 * 192 * 3 < rows["bytes"]["against"]


@pytest.mark.slow
def test_a_slow_judge_is_waited_for_less_than_by_stock_trl() -> None:
    rows, last = lines_of("judge_overlap", "--pairs", "2")
    assert list(rows) == ["exposed", "stock"] and last["seconds"]["between"] > 0.0
    assert rows["exposed"]["ratio"] < 1.0 < rows["stock"]["ratio"] + 0.02


@pytest.mark.slow
def test_the_overhead_is_measured_in_pairs() -> None:
    rows, last = lines_of("trainer_overhead", "--pairs", "2")
    assert list(rows) == ["step"] and last["pairs"] == 2 and 0.3 < rows["step"]["ratio"] < 3.0
    assert last["kept"] >= 4, "what our trainer tells is written, and counts"
