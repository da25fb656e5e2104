"""A small pipeline of three stages in a git and DVC repository of its own, and one Prefect server for all tests.

The stages are real programs (``python -m steps.NAME``) with the real parameters; only what they compute is small.
Each appends its name to ``$RAN``, which is how a test knows what was executed.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.helpers import dvc, sh

if "PREFECT_HOME" not in os.environ:
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")
    atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")

PROJECT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  prepare:
    desc: Copies what it finds
    cmd: python -m steps.prepare
    deps: [steps/prepare.py, rooms, '${prepare.path}']
    params: [prepare]
    outs: [data/images, data/manifest.txt]
  train:
    desc: Learns nothing
    cmd: python -m steps.train
    deps: [steps/train.py, data/images]
    params: [train]
    outs: [models/policy]
    metrics:
      - reports/train/summary.json: {cache: false}
    plots:
      - reports/train/curves.csv: {cache: false, x: step}
    meta: {retries: 1, retry_delay: 0, timeout: 60, gpus: 1}
  evaluate:
    cmd: python -m steps.evaluate
    deps: [steps/evaluate.py, models/policy, data/manifest.txt]
    params: [evaluate]
    outs:
      - reports/evaluate/metrics.json
      - reports/evaluate/registration.json: {cache: false}
    metrics:
      - reports/evaluate/summary.json: {cache: false}
"""
COMMON = """
import json, os, sys, yaml
from pathlib import Path
params = yaml.safe_load(Path("params.yaml").read_text())
def ran(name):
    with open(os.environ["RAN"], "a") as f:
        f.write(f"{name} {os.environ.get('DVC_EXP_NAME', '-')}\\n")
def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
"""
PREPARE = """
from steps.common import *
ran("prepare")
files = sorted(Path(params["prepare"]["path"]).rglob("*.txt"))
for file in files:
    write(f"data/images/{file.name}", file.read_text())
write("data/manifest.txt", "".join(file.name + "\\n" for file in files))
"""
TRAIN = """
from steps.common import *
import subprocess, time
ran("train")
train = params["train"]
print("▸ train 1/2 steps, 0:01 left; recall 0.5", flush=True)
if train["seed"] == 13:
    sys.exit("error: data/images holds nothing to learn from")
if train["seed"] == 14:  # works once its first attempt has failed
    first = Path(os.environ["RAN"] + ".first")
    if not first.exists():
        first.touch()
        sys.exit("error: the first attempt fails")
if train["seed"] == 15:  # hangs, with a child that hangs too
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    write(os.environ["RAN"] + ".pids", f"{os.getpid()} {child.pid}")
    time.sleep(1000)
if "PAUSES" in os.environ and "BALCAP_RESUME" not in os.environ:
    write(os.environ["BALCAP_WORK"] + "/train/key/paused.json", json.dumps({"run": os.environ["DVC_EXP_NAME"]}))
    sys.exit(75)
images = sorted(Path("data/images").iterdir())
write("models/policy/weights.txt", f"{train['seed']} {len(images)}")
write("reports/train/summary.json", json.dumps({"reward": train["reward_weights"]["recall"] / 10}))
write("reports/train/curves.csv", "step,reward\\n1,0.5\\n")
"""
EVALUATE = """
from steps.common import *
ran("evaluate")
value = len(Path("models/policy/weights.txt").read_text()) + params["evaluate"]["seed"]
write("reports/evaluate/metrics.json", json.dumps({"value": value}))
write("reports/evaluate/registration.json", json.dumps({"name": "tiny"}))
write("reports/evaluate/summary.json", json.dumps({"value": value, "nested": {"n": 3}}))
"""


def write_files(root: Path) -> None:
    for name, text in {
        "dvc.yaml": DVC_YAML,
        "steps/__init__.py": "",
        "steps/common.py": COMMON,
        "steps/prepare.py": PREPARE,
        "steps/train.py": TRAIN,
        "steps/evaluate.py": EVALUATE,
        "rooms/room.py": "ROOM = 1\n",
        "inputs/a.txt": "a",
        "inputs/b.txt": "b",
        ".gitignore": "__pycache__/\n/.work/\n/.runs/\n/.prefect/\n/mlruns/\n/data/mine\n",
        ".dvcignore": "__pycache__\n*.pyc\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    params = yaml.safe_load((PROJECT / "recipes/embedded.yaml").read_text())
    params["prepare"]["path"] = "inputs"
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "recipes").mkdir()
    params["train"]["seed"] = 5
    params["recipe"] = "other"
    (root / "recipes/other.yaml").write_text(
        "# Another seed. Nothing else.\n" + yaml.safe_dump(params, sort_keys=False)
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as its author committed it, never run."""
    root = tmp_path_factory.mktemp("template") / "tiny"
    root.mkdir()
    write_files(root)
    sh("git", "init", "--quiet", "--initial-branch", "main", cwd=root)
    dvc("init", "--quiet", cwd=root)
    dvc("config", "core.analytics", "false", cwd=root)
    sh("git", "add", ".", cwd=root)
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Begin", cwd=root)
    return root


@pytest.fixture(scope="session", autouse=True)
def quiet_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing leaves traces outside the temporary folder, and stages find this interpreter."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / "dvc"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        yield


@pytest.fixture
def new_repo(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes copies of the repository; the working directory is the newest."""
    from balcap.workspace import main_checkout

    monkeypatch.setenv("RAN", str(tmp_path / "ran"))

    def make(name: str) -> Path:
        shutil.copytree(template, tmp_path / name, symlinks=True)
        monkeypatch.chdir(tmp_path / name)
        main_checkout.cache_clear()
        return tmp_path / name

    return make


@pytest.fixture
def repo(new_repo: Callable[[str], Path]) -> Path:
    """A fresh repository, and the working directory."""
    return new_repo("repo")


@pytest.fixture(scope="session")
def prefect() -> Iterator[str]:
    """URL of one Prefect server for the whole session."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def run(prefect: str) -> Callable[..., Any]:
    """Runs the flow in this process and returns its final state."""
    from flows.pipeline import pipeline
    from flows.request import RunRequest

    def execute(**wishes: Any) -> Any:
        return pipeline(RunRequest(**wishes), return_state=True)

    return execute


@pytest.fixture
def executed(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the stages whose commands were executed since the last call."""
    log, seen = tmp_path / "ran", 0

    def news() -> list[str]:
        nonlocal seen
        lines = log.read_text().splitlines() if log.exists() else []
        fresh, seen = lines[seen:], len(lines)
        return [line.split()[0] for line in fresh]

    return news


@pytest.fixture(scope="session")
def reproduced(template: Path, tmp_path_factory: pytest.TempPathFactory, quiet_world: None) -> Path:
    """The repository after one ``dvc repro``; nothing of the results is committed."""
    root = tmp_path_factory.mktemp("reproduced") / "tiny"
    shutil.copytree(template, root, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAN", str(root.parent / "ran"))
        dvc("repro", cwd=root)
    return root


@pytest.fixture
def done(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the repository after one ``dvc repro``, and the working directory."""
    from balcap.workspace import main_checkout

    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    shutil.copytree(reproduced, tmp_path / "done", symlinks=True)
    monkeypatch.chdir(tmp_path / "done")
    main_checkout.cache_clear()
    return tmp_path / "done"
