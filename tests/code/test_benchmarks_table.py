"""`make bench`: rows are replaced one benchmark at a time, progress is no row, a failure keeps what was there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import benchmarks.__main__ as bench

LINE = {"benchmark": "a/x", "ratio": 0.5, "interval": [0.4, 0.6], "ours": 1, "against": 2, "goal": "<= 1"} | {
    "holds": True
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page = tmp_path / "performance.md"
    page.write_text("# P\n<!-- rows:begin -->\n| b |\n|---|\n| a/x | old |\n| b/y | kept |\n<!-- rows:end -->\nend\n")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "PAGE", page)
    return tmp_path


def test_rows_of_one_benchmark_are_replaced(here: Path) -> None:
    bench.write("a", [bench.row(LINE)], here / "performance.md")
    lines = (here / "performance.md").read_text().splitlines()
    assert lines[:4] == ["# P", "<!-- rows:begin -->", "| b |", "|---|"] and lines[-2:] == ["<!-- rows:end -->", "end"]
    assert lines[4].startswith("| a/x | 0.5 [0.4, 0.6] | <= 1 | yes | 1 / 2 |") and lines[5:-2] == ["| b/y | kept |"]


def test_a_row_names_the_gpu_that_its_line_names() -> None:
    cells = bench.row({**LINE, "on": "NVIDIA H100"}).split(" | ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, NVIDIA H100, \d+ cores, Python .*, torch .* \|", cells[-1])
    assert "H100" not in bench.row(LINE)


def test_progress_is_passed_over_and_a_failure_is_told(here: Path) -> None:
    (here / "a.py").write_text(
        "import json; print('▸ train 1/14 steps, 0:01 left')\n"
        f"print(json.dumps({LINE!r})); print(json.dumps({{'benchmark': 'a', 'holds': True}}))"
    )
    assert bench.run("a") == [LINE]
    (here / "a.py").write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="a failed with exit status 3"):
        bench.run("a")
