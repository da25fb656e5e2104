"""Progress lines: an estimate from fresh work only, readable by people and by the flow."""

from __future__ import annotations

import math

import pytest

from balcap.progress import Progress, duration, parse


def test_estimate_counts_only_fresh_work(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = Progress("train", 100, "steps", every=0.0, clock=lambda: now[0])
    progress.skip(50)
    now[0] = 10.0
    progress.advance(10, "precision 0.52")
    assert capsys.readouterr().out == "▸ train 60/100 steps, 0:40 left; precision 0.52\n"


def test_lines_are_rare_but_the_last_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("prepare", 1000, "images", every=3600.0, clock=lambda: 0.0)
    for _ in range(1000):
        progress.advance()
    lines = capsys.readouterr().out.splitlines()
    assert [parse(line).done for line in lines] == [1, 1000]  # type: ignore[union-attr]


@pytest.mark.parametrize("note", ["", "recall 0.41; loss 1.2"])
def test_what_is_printed_can_be_read(note: str) -> None:
    progress = Progress("collect_references", 7, "shards", clock=lambda: 0.0)
    progress.done = 3
    line = parse(progress.line(note))
    assert line is not None
    assert (line.what, line.done, line.total, line.unit, line.note) == ("collect_references", 3, 7, "shards", note)


def test_other_lines_are_no_progress() -> None:
    assert parse("Running stage 'train':") is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3700, "1:01:40"), (math.nan, "?"), (-3, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
