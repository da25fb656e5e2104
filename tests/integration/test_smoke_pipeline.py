"""The real pipeline at its smallest size: three ways to run it, in three clones with separate caches, one ``dvc.lock``.

The three work side by side; the other tests look at what they left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from balcap.hashing import content_md5
from balcap.processes import end_group
from flows import _dvc
from flows.request import RunRequest, write_params

PROJECT = Path(__file__).parents[2]
OVERRIDE = "train.reward_weights.recall=2"
DEADLINE = 2100
METRICS = (
    "precision", "recall", "linguistic", "b_capscore", "qa_accuracy", "arena", "words", "length_ratio",
    "repetition", "hedging", "self_praise",
)  # fmt: skip
DVC = [sys.executable, "-m", "dvc"]
BALCAP = [sys.executable, "-m", "flows.cli"]
WAYS = {
    "repro": [*DVC, "repro"],
    "experiment": [*DVC, "exp", "run", "-S", OVERRIDE],
    "flow": [*BALCAP, "run", "--recipe", "smoke", "-S", OVERRIDE, "--name", "smoke-1", "--apply"],
}
AGAIN = {"repro": [*DVC, "repro"], "experiment": [*DVC, "exp", "run"], "flow": [*BALCAP, "run", "--name", "smoke-2"]}


@dataclass(frozen=True)
class Clone:
    """One clone after its run, and what the run said."""

    root: Path
    said: str

    @property
    def lock(self) -> bytes:
        return (self.root / "dvc.lock").read_bytes()


@dataclass(frozen=True)
class Started:
    """A command at work, and the file that takes its output (a pipe that nobody reads would hold it up)."""

    process: subprocess.Popen[bytes]
    output: Path


def start(root: Path, command: list[str]) -> Started:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "BALCAP_"))}
    env |= {"PATH": path, "DVC_SITE_CACHE_DIR": str(root.parent / "dvc"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    output = root.with_suffix(".log")
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=root, env=env | {"MLFLOW_DISABLE_TELEMETRY": "true"}, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return Started(process, output)


def finish(started: dict[str, Started]) -> dict[str, str]:
    """What each command said; all of them must end well, and nothing of them is left if one does not."""
    deadline, said = time.monotonic() + DEADLINE, {}
    try:
        for name, one in started.items():
            code = one.process.wait(max(deadline - time.monotonic(), 0.0))
            said[name] = one.output.read_text()
            assert code == 0, f"{name}:\n{said[name]}"
    finally:
        for one in started.values():
            end_group(one.process, grace=40.0)  # a flow ends the groups that it started itself
    return said


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Clone]]:
    """The project's HEAD in three clones, each run in its own way."""
    base = tmp_path_factory.mktemp("clones")
    for way in WAYS:
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(base / way)], check=True, timeout=300)
    for way, overrides in (("repro", (OVERRIDE,)), ("experiment", ())):  # what the flow does inside its worktree
        root = base / way
        write_params(root, RunRequest(recipe="smoke", overrides=overrides), root / "params.yaml")
    said = finish({way: start(base / way, command) for way, command in WAYS.items()})
    yield {way: Clone(base / way, said[way]) for way in WAYS}
    shutil.rmtree(base)


def test_the_lock_is_identical_byte_by_byte(clones: dict[str, Clone]) -> None:
    stages = yaml.safe_load(clones["flow"].lock)["stages"]
    assert list(stages) == list(yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"])
    differing = {
        way: [name for name, entry in yaml.safe_load(clone.lock)["stages"].items() if entry != stages[name]]
        for way, clone in clones.items()
    }
    assert not any(differing.values()), differing
    assert clones["repro"].lock == clones["experiment"].lock == clones["flow"].lock


def test_each_way_ran_every_stage_once(clones: dict[str, Clone]) -> None:
    for clone in clones.values():
        ran = re.findall(r"Running stage '(\w+)'", clone.said)
        assert ran == [stage.name for stage in _dvc.plan(PROJECT)]


def test_nothing_is_executed_on_the_second_run(clones: dict[str, Clone]) -> None:
    said = finish({way: start(clones[way].root, command) for way, command in AGAIN.items()})
    for way, text in said.items():
        assert "Running stage" not in text, f"{way}:\n{text}"
    assert re.findall(r"^(\w+): Cached \(nothing it depends on changed\)$", said["flow"], re.MULTILINE) == [
        stage.name for stage in _dvc.plan(PROJECT)
    ]
    assert len({clone.lock for clone in clones.values()}) == 1


def test_results_stand_in_the_working_tree(clones: dict[str, Clone]) -> None:
    root = clones["flow"].root
    metrics = json.loads((root / "reports/evaluate/metrics.json").read_text())
    assert {who: sorted(scores) for who, scores in metrics.items()} == dict.fromkeys(
        ("base", "policy", "difference"),
        sorted(METRICS),
    )
    assert all(set(score) == {"value", "low", "high", "n"} for scores in metrics.values() for score in scores.values())
    for path in ("models/policy/model.safetensors", "reports/evaluate/report.html", "reports/train/curves.csv"):
        assert (root / path).stat().st_size > 0
    untracked = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True).stdout
    assert not re.search(r"models|\.gitignore|report\.html", untracked), "cached outputs are ignored by git"
    assert not [path for path in (root / ".runs").iterdir() if path.is_dir()]


def test_one_name_in_prefect_dvc_and_mlflow(clones: dict[str, Clone]) -> None:
    import sqlite3

    root = clones["flow"].root
    assert len(_dvc.experiments(root, "smoke-1")) == 1
    with sqlite3.connect(root / ".prefect/prefect.db") as prefect:
        assert prefect.execute("select state_type from flow_run where name = 'smoke-1'").fetchall() == [("COMPLETED",)]
    with sqlite3.connect(root / "mlruns/mlflow.db") as mlflow:
        (parent,) = mlflow.execute("select run_uuid from runs where name = 'smoke-1'").fetchone()
        children = mlflow.execute(
            "select r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'mlflow.parentRunId' and t.value = ? order by r.start_time",
            (parent,),
        ).fetchall()
    assert children == [(stage.name, "FINISHED") for stage in _dvc.plan(PROJECT)]


KILL = """
import os, runpy
from importlib import import_module
from balcap.params import load_params
os.environ["OMP_NUM_THREADS"] = str(load_params().runtime.threads)  # as the stage does, before torch is imported
module, owner, name = {place!r}
holder = getattr(import_module(module), owner)
save = getattr(holder, name)
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    os.kill(os.getpid(), 9)
setattr(holder, name, save_and_die)
runpy.run_module("steps.{stage}", run_name="__main__")
"""
FIRST_SAVE = {
    "warmstart": ("balcap.warmstart.loop", "State", "save"),
    "train": ("balcap.training.trainer", "CaptionTrainer", "_save_checkpoint"),
}


@pytest.mark.parametrize(("stage", "out"), [("warmstart", "models/base"), ("train", "models/policy")])
def test_a_killed_stage_goes_on_and_ends_with_the_same_content(clones: dict[str, Clone], stage: str, out: str) -> None:
    root = clones["repro"].root
    recorded = {o["path"]: o["md5"] for o in yaml.safe_load(clones["repro"].lock)["stages"][stage]["outs"]}
    shutil.rmtree(root / out)
    shutil.rmtree(root / ".work" / stage)
    killed = start(root, [sys.executable, "-c", KILL.format(place=FIRST_SAVE[stage], stage=stage)])
    assert killed.process.wait(300) == -9, killed.output.read_text()
    assert not (root / out).exists()
    saved = {path for path in (root / ".work" / stage).rglob("*") if path.suffix == ".safetensors"}
    assert saved
    said = finish({stage: start(root, [sys.executable, "-m", f"steps.{stage}"])})[stage]
    assert {path: content_md5(root / path) for path in recorded} == recorded
    steps = [int(n) for n in re.findall(rf"{stage} (\d+)/\d+ steps", said)]
    assert steps and min(steps) > 1, f"finished steps are repeated:\n{said}"
