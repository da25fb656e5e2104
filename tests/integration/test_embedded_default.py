"""The embedded default as a newcomer meets it: `balcap demo` in a fresh clone, twice (about ten minutes)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Demo:
    root: Path
    first: str
    second: str

    @property
    def difference(self) -> dict[str, Any]:
        return json.loads((self.root / "reports/evaluate/metrics.json").read_text())["difference"]


def demo(root: Path) -> str:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "demo"], cwd=root, env=env, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    root = tmp_path_factory.mktemp("demo") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    return Demo(root, demo(root), demo(root))


def test_the_captioner_becomes_clearly_better_on_held_out_pictures(ran: Demo) -> None:
    score = ran.difference["b_capscore"]
    assert score["value"] >= 0.35 and score["low"] > 0.28 and score["n"] == 256
    assert all(ran.difference[name]["low"] > 0 for name in ("qa_accuracy", "arena", "precision", "recall"))


def test_it_ends_with_captions_table_and_where_to_look(ran: Demo) -> None:
    for needed in ("before", "after", "b_capscore", "report.html", "Prefect", "DVC", "MLflow", "balcap-embedded"):
        assert needed in ran.first, needed


def test_a_second_demo_executes_nothing(ran: Demo) -> None:
    assert len(re.findall(r"^\w+: Cached", ran.second, re.MULTILINE)) == 9
    assert "Running stage" not in ran.second
