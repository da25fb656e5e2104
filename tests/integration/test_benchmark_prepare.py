"""The benchmark of `prepare` runs and says what it promises; a few files decide no goal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_lines_of_the_benchmark() -> None:
    command = [sys.executable, "benchmarks/prepare.py", "--images", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert [line["benchmark"] for line in lines] == ["prepare/throughput", "prepare/cores", "prepare/memory"]
    for line in lines:
        low, high = line["interval"]
        assert set(line) == {"benchmark", "ratio", "interval", "ours", "against", "goal", "holds"}
        assert 0 < low <= high and low <= line["ratio"] * 1.2 and line["ratio"] <= high * 1.2
        assert line["ratio"] == pytest.approx(line["ours"] / line["against"], rel=0.05)
    assert last["holds"] == all(line["holds"] for line in lines)
