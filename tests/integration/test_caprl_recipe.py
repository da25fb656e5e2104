"""Utility as the only reward: `balcap run --recipe caprl` in a fresh clone (about ten minutes)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("caprl") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "flows.cli", "run", "--recipe", "caprl", "--apply"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def metrics(root: Path) -> dict[str, Any]:
    return json.loads((root / "reports/evaluate/metrics.json").read_text())


def test_reward_and_held_out_question_accuracy_rise(root: Path) -> None:
    facts = json.loads((root / "reports/train/summary.json").read_text())
    assert facts["reward_rise_low"] > 0.1 and facts["utility_last"] == pytest.approx(facts["reward_last"])
    answers = metrics(root)["difference"]["qa_accuracy"]
    assert answers["low"] > 0.1 and answers["n"] == 256


def test_the_report_shows_what_utility_alone_does_to_wording(root: Path) -> None:
    """The paper's failure, overlong and repetitive; not its self-praise, for a reader by rule cannot be flattered."""
    found = metrics(root)
    change = found["difference"]
    assert change["words"]["low"] > 5 and found["policy"]["length_ratio"]["low"] > 1.25
    assert change["linguistic"]["high"] < -0.1
    assert change["repetition"]["low"] > 15
    assert change["hedging"]["high"] < 0.1 and change["self_praise"]["high"] < 0.1
    html = (root / "reports/evaluate/report.html").read_text()
    for said in ("Linguistic fell: −0.", "The captions became longer: ", "Repetition rose: +"):
        assert said in html
    rows = [row for row in html.split("<tr")[1:] if 'data-label="Policy"' in row]
    for name in ("Linguistic", "Words", "Length ratio", "Repetition", "Hedging", "Self-praise"):
        (row,) = [row for row in rows if f'<th scope="row">{name}<' in row]
        assert row.count("<i>[") == 3, "base, policy and difference, each with its interval"
