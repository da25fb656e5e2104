"""The recipes for real captioners: `balcap plan` lets them pass, and their first comments say what it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from balcap.params import load_params
from balcap.plan import plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_its_plan_fits_and_stands_in_the_first_comment(name: str, tmp_path: Path) -> None:
    found = plan(load_params(ROOT / "recipes" / f"{name}.yaml"), tmp_path, gpus=8)
    assert not found.faults
    said = " ".join((ROOT / "recipes" / f"{name}.yaml").read_text().partition("\nrecipe:")[0].split("\n# "))
    memory = re.search(r"training, (\d+) GB of each used", said)
    hours = re.search(r"on those 2, the run takes about (\d+) hours,.* judge's (\d+) GPU hours", said)
    hidden = re.search(r"(\d+) judge GPUs hide them and leave (\d+) hours", said)
    assert memory and hours and hidden
    assert float(memory[1]) == pytest.approx(max(found.need.moments.values()) / 1e9, abs=1.0)
    assert float(hours[1]) == pytest.approx(found.hours(2), abs=0.5)
    assert float(hours[2]) == pytest.approx(found.seconds.judging * found.params.train.steps / 3600, abs=0.5)
    assert int(hidden[1]) == found.seconds.hiding and float(hidden[2]) == pytest.approx(found.hours(), abs=0.5)
