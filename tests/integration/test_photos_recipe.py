"""Real photographs from a folder to a registered captioner: `balcap run --recipe photos` in a fresh clone (minutes)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "flows.cli", "run", "--recipe", "photos", "--apply"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def test_the_mean_reward_of_the_last_steps_is_above_that_of_the_first(root: Path) -> None:
    facts = json.loads((root / "reports/train/summary.json").read_text())
    assert facts["steps"] == 40 and facts["judge_failure_rate"] == 0.0
    assert facts["reward_rise_low"] > 0


def test_what_the_judge_cannot_know_does_not_apply(root: Path) -> None:
    metrics = json.loads((root / "reports/evaluate/metrics.json").read_text())
    for name in ("qa_accuracy", "arena"):
        assert metrics["policy"][name] == {"value": None, "low": None, "high": None, "n": 0}
    assert metrics["policy"]["precision"]["n"] == 6


def test_the_report_says_that_the_captions_are_poor_and_the_model_is_registered(root: Path) -> None:
    assert "Do not rely on them" in (root / "reports/evaluate/report.html").read_text()
    assert json.loads((root / "reports/register/registration.json").read_text())["name"] == "balcap-photos"
