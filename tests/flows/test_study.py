"""The study as a flow: which runs it is made of, and (slow) two real arms at a time, resumed, reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from balcap.params import read_params
from balcap.study.arms import ARMS, chosen
from balcap.study.data import read_study
from flows import _dvc, study_plan
from flows.study_plan import Start, plan_runs, version
from tests.flows.helpers import sh

PROJECT = Path(__file__).parents[2]


def test_arms_share_pictures_and_warm_starts() -> None:
    runs = plan_runs(PROJECT, chosen("all"), 3)
    assert len({run.name for run in runs}) == len(runs) == 3 * len(ARMS)
    assert {run.start for run in runs} == {
        Start(recipe, seed) for recipe in ("ablation-full", "ablation-hard-full") for seed in (0, 1)
    }
    for run in runs:
        assert run.start.seed == run.seed % 2 and run.start.recipe.startswith("ablation-hard") == (
            run.arm.base != "base"
        )
        assert run.overrides == (f"warmstart.seed={run.seed % 2}", f"train.seed={run.seed}")
    assert [run.name for run in plan_runs(PROJECT, chosen("paper"), 1)] == [run.name for run in runs[:9]]


def test_a_run_is_called_after_all_that_decides_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = read_params(PROJECT / "recipes/ablation-full.yaml")
    stages = [stage.name for stage in _dvc.plan(PROJECT, ["evaluate"])]
    shared = stages[: stages.index("warmstart") + 1]

    def names(params: dict[str, Any]) -> tuple[str, str]:
        return version(PROJECT, params, shared), version(PROJECT, params, stages)

    before = names(raw)
    assert names(raw | {"runtime": raw["runtime"] | {"workers": 7}, "register": {}}) == before
    other = names(raw | {"train": raw["train"] | {"steps": 1}})
    assert other[0] == before[0] and other[1] != before[1]
    assert names(raw | {"prepare": raw["prepare"] | {"shard_size": 7}})[0] != before[0]

    content = study_plan._content
    monkeypatch.setattr(
        study_plan, "_content", lambda path: "changed" if path.name == "advantages" else content(path)
    )  # fmt: skip
    assert names(raw)[0] == before[0] and names(raw)[1] != before[1]


GRPO = {"name": "grpo", "scale": "group", "ddof": 1, "eps": 1e-4, "rank_unmasked": False}


def small_recipes(root: Path) -> None:
    """Two arms of the smallest size, committed in a clone."""
    for name in ("full", "grpo"):
        raw = read_params(root / "recipes/smoke.yaml")
        raw["recipe"] = f"ablation-{name}"
        if name == "grpo":
            raw["train"]["advantage"] = GRPO
        (root / f"recipes/ablation-{name}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--all", "-m", "Small arms", cwd=root)


TWO_ARMS = """
import sys
from balcap.study import arms
arms._ALL = arms._ALL[:2]
from flows.cli import app
app(sys.argv[1:])
"""


def balcap(root: Path, *words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "BALCAP_"))}
    env |= {"DVC_SITE_CACHE_DIR": str(root.parent / "dvc"), "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", TWO_ARMS, *words], cwd=root, env=env, capture_output=True, text=True, timeout=3000
    )
    logs = [path.read_text()[-2000:] for path in (root / ".work/study").glob("*.log")]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])
    return done.stdout


@pytest.mark.slow
def test_two_arms_are_run_at_a_time_once_and_reported(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    small_recipes(root)
    before = sh("git", "status", "--porcelain", cwd=root)
    said = balcap(root, "study", "ablations", "--seeds", "1")
    names = [run.name for run in plan_runs(root, chosen("paper")[:2], 1)]
    assert "study: 0 of 2 runs are there" in said and all(_dvc.experiments(root, name) for name in names)
    assert f"{names[0]}: running" in said.split("▸")[0] and f"{names[1]}: running" in said.split("▸")[0]  # side by side
    for name in names:  # what the arms share was made once, and each arm had the rest to do
        log = (root / f".work/study/{name}.log").read_text()
        ran = [line for line in log.splitlines() if "Running stage" in line]
        assert [line.split("'")[1] for line in ran] == ["train", "evaluate"], log
        assert "warmstart: Cached (nothing it depends on changed)" in log
    assert not [path for path in (root / ".runs").iterdir() if path.is_dir()]

    folder = root / "docs/results/ablations"
    found = read_study(folder / "data")
    assert found.arms() == ["base", "full", "grpo"] and found.pictures("full") == 8
    assert len(found.curves["grpo", 0]["precision"]) == 4 and found.runs["experiments"]["grpo, seed 0"] == names[1]
    assert len(list((folder / "pictures").glob("*.png"))) == 3
    text = (folder / "README.md").read_text()
    assert "balcap study ablations --arms paper --seeds 1" in text and "| **inconclusive** |" in text
    assert sh("git", "status", "--porcelain", "--", ".", ":!docs/results", cwd=root) == before

    first = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = balcap(root, "study", "ablations", "--seeds", "1")
    assert "study: 2 of 2 runs are there" in again and ": running" not in again
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    (folder / "README.md").unlink()
    balcap(root, "study", "report")
    assert (folder / "README.md").read_bytes() == first["README.md"]
    assert json.loads(first["runs.json"])["commands"]


def test_without_results_the_report_says_what_to_run(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "study", "report"], cwd=repo, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and "no results yet; `balcap study ablations` makes them" in done.stderr
