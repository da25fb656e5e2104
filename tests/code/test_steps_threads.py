"""``runtime.threads`` decides with how many threads torch computes, whatever the shell says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib, sys
from contextlib import contextmanager
from types import SimpleNamespace
import steps._stage
from balcap import params, workspace

@contextmanager
def no_run(*args):
    yield SimpleNamespace(log=print)

workspace.work_key = lambda *args: "key"
steps._stage.stage_run = no_run
module = importlib.import_module("steps." + sys.argv[1])

def report(*args, **kwargs):
    import torch
    print("threads", torch.get_num_threads())
    sys.exit(0)

import balcap.records_io
balcap.records_io.read_samples = report
module.read_samples = report
module.body()
"""


@pytest.mark.parametrize("stage", ["warmstart", "evaluate"])
def test_the_recipe_decides_and_not_the_shell(stage: str, tmp_path: Path) -> None:
    text = (ROOT / "recipes/smoke.yaml").read_text()
    assert "threads: 1" in text
    (tmp_path / "params.yaml").write_text(text)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    env = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT), "BALCAP_WORK": str(tmp_path / "work")}
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM, stage], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120
    )
    assert out.stdout.split() == ["threads", "1"], out.stderr
