"""Training in several processes on CPU (gloo): the numbers of one process, DeepSpeed for real, and every bad end.

For each ZeRO stage a run of recorded rollouts meets a bad end in its third step, is resumed and finished.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ranks_world as ranks
import train_world as world
import twins
import yaml
from runtime_world import ALONE, runtime

from balcap.policy.store import load_policy
from balcap.training.data import TrainingError
from balcap.training.launch import RankFailed, start
from balcap.training.manifest import checkpoints

PROGRAM = str(Path(ranks.__file__))
PROJECT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  train:
    cmd: python -m steps.train
    deps: [steps/train.py, data/images, data/references.parquet, data/questions.parquet, models/base]
    params: [train]
    outs: [models/policy, reports/train/samples.parquet, reports/train/curves.csv, reports/train/summary.json]
"""
GATHERED = ("reward", "length", "text", "judge", "advantage")
"""Parts of the curves that are about all ranks' captions."""
TOWER = "model.vision_tower"
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "v_proj"]}
ENDS: dict[str, tuple[type[Exception], str]] = {
    "die": (RankFailed, r"^rank 1 of 2 \(process \d+\) was ended by SIGKILL.*run again to go on"),
    "hang": (TrainingError, r"^train\.judge .* unknown in step 3.*\(deadline: .*checkpoint-2 is kept"),
    "stop": (RankFailed, r"^rank 0 of 2 \(process \d+\): .*Timed out waiting.*runtime\.launch\.collective_timeout"),
}
"""In the third step rank 1 is killed, its judge stops answering, or it stops itself."""
JUDGE = {"name": "lexical", "revision": "1", "max_failure_rate": 0.2}
GENTLE = {**world.SETTINGS["optimizer"], "learning_rate": 1e-4}
"""At the usual rate noise becomes silence within two steps, and nothing is left to tell apart."""
FAMILIES: dict[str, dict[str, Any]] = {
    "tiny": {"frozen": [TOWER], "lora": None},
    "adapters": {"frozen": [TOWER], "lora": LORA},
    "llava": {"frozen": [TOWER], "lora": None, "optimizer": GENTLE},
    "qwen": {"frozen": ["model.visual"], "lora": None, "optimizer": GENTLE},
}
"""What is trained: the tiny LLaVA of other tests, the same by adapters, and the twins of the real captioners; a twin's
captions are noise, and their rewards follow from their own bytes.
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per family, the folder of a run of one process."""
    return {}


def reference(family: str, recorded: dict[str, Path], make: pytest.TempPathFactory) -> Path:
    """The folder of this family's runs: base, rollouts, and the run of one process under ``alone``."""
    if family not in recorded:
        folder = make.mktemp(family)
        base = folder / "base"
        noise = family in twins.FAMILIES
        twins.talkative(twins.base(family, base)) if noise else world.base(base)
        ranks.record(base, folder / "alone", FAMILIES[family], noise)
        assert all(np.load(file).std() > 0.1 for file in (folder / "alone").glob("advantages-*.npy"))
        recorded[family] = folder
    return recorded[family]


def launch(folder: Path, family: str, stage: str, end: str, deadline: float = 60.0) -> None:
    """Two ranks over gloo."""
    timeout = 40.0 if end == "stop" else 120.0
    settings = {**ALONE, "processes": 2, "deepspeed": stage, "collective_timeout": timeout}
    task = {
        "end": end,
        "settings": {**FAMILIES[family], "judge_deadline": deadline, "judge": JUDGE},
        "base": str(folder.parent / "base"),
        "noise": family in twins.FAMILIES,
        "launch": settings,
    }
    folder.mkdir(exist_ok=True)
    (folder / "task.json").write_text(json.dumps(task))
    start(runtime(launch=settings), [PROGRAM, str(folder)])


def survivors(folder: Path) -> list[str]:
    """Command lines of living processes that work on ``folder``."""
    lines = [" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(folder) in line]


def tracked(folder: Path, rank: int = 0) -> dict[int, dict[str, Any]]:
    """What a rank would log, by step."""
    found: dict[int, dict[str, Any]] = {}
    for line in (folder / f"log-{rank}.jsonl").read_text().splitlines():
        step, metrics = json.loads(line)
        found.setdefault(step, {}).update(metrics)
    return found


def check_equal(folder: Path, steps: range) -> None:
    """Advantages to 1e-6, losses to 1e-4, all other metrics of the steps, against the run of one process."""
    alone = folder.parent / "alone"
    for step in steps:
        expected = np.load(alone / f"advantages-{step}-0.npy")
        found = np.concatenate([np.load(folder / f"advantages-{step}-{rank}.npy") for rank in range(2)])
        assert found == pytest.approx(expected, abs=1e-6)
        there, here = tracked(alone)[step], tracked(folder)[step]
        assert here["trl/loss"] == pytest.approx(there["trl/loss"], abs=1e-4)
        for name in (name for name in there if name.split("/")[0] in GATHERED):
            assert here[name] == pytest.approx(there[name], abs=1e-6, nan_ok=True), (step, name)


@pytest.mark.parametrize(
    ("family", "stage", "end"),
    [
        ("qwen", "zero3", "hang"),
        pytest.param("llava", "zero2", "die", marks=pytest.mark.slow),
        pytest.param("llava", "zero3", "hang", marks=pytest.mark.slow),
        pytest.param("qwen", "zero2", "die", marks=pytest.mark.slow),
        pytest.param("llava", "zero1", "die", marks=pytest.mark.slow),
        pytest.param("tiny", "none", "die", marks=pytest.mark.slow),
        pytest.param("tiny", "zero2", "stop", marks=pytest.mark.slow),
        pytest.param("adapters", "zero2", "die", marks=pytest.mark.slow),
        pytest.param("adapters", "zero3", "die", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_end_badly_and_go_on_follow_one_process(
    family: str, stage: str, end: str, recorded: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = reference(family, recorded, tmp_path_factory) / stage
    kind, message = ENDS[end]
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        launch(folder, family, stage, end, deadline=10.0 if end == "hang" else 60.0)
    assert time.monotonic() - began < 600  # torch's own limit is 1800
    # Whoever waited for the other is gone, too, and what was finished is kept.
    assert not survivors(folder)
    assert [c.name for c in checkpoints(folder / "work")] == ["checkpoint-1", "checkpoint-2"]
    engine = json.loads((folder / "engine-1.json").read_text())
    if stage == "none":
        assert engine == {"wrapped": "DistributedDataParallel", "as": "DistributedType.MULTI_CPU"}
    else:
        assert engine == {"wrapped": "DeepSpeedEngine", "as": "DistributedType.DEEPSPEED"}
    launch(folder, family, stage, "finish")
    check_equal(folder, range(1, ranks.REPLAYED + 1))
    assert [c.name for c in checkpoints(folder / "work")] == ["checkpoint-3", "checkpoint-4"]
    before, after = (load_policy(path).model.state_dict() for path in (folder.parent / "base", folder / "policy"))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not any(name.startswith(tuple(FAMILIES[family]["frozen"])) for name in changed)


def write_stage(root: Path) -> None:
    """What stage ``train`` reads, with parameters for two processes."""
    world.write_inputs(root)
    params = yaml.safe_load((PROJECT / "recipes/smoke.yaml").read_text())
    params["train"] = world.SETTINGS
    params["runtime"]["launch"] = {**ALONE, "processes": 2, "deepspeed": "zero2"}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "dvc.yaml").write_text(DVC_YAML)


def test_the_stage_leaves_what_one_process_would(tmp_path: Path) -> None:
    write_stage(tmp_path)
    shutil.copytree(PROJECT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # nobody there: the records stay in their journal
    done = subprocess.run(
        [sys.executable, "-m", "steps.train"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train 4/4 steps") == done.stdout.count("mean reward") == 1
    curves = (tmp_path / "reports/train/curves.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in curves] == ["step", "1", "2", "3", "4"]
    assert pq.read_table(tmp_path / "reports/train/samples.parquet")["step"].to_pylist() == [0, 0, 2, 2, 4, 4]
    assert json.loads((tmp_path / "reports/train/summary.json").read_text())["steps"] == 4
    assert load_policy(tmp_path / "models/policy").max_new_tokens == 12
    (journal,) = (tmp_path / ".work/tracking").glob("*.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [r["step"] for r in records if r["op"] == "metrics" and "advantage/std" in r["values"]]
    assert steps == [1, 2, 3, 4] and records[-1]["status"] == "FINISHED"
    assert len([r for r in records if r["op"] == "table"]) == 3 and "dvc.out/models/policy" in str(records[-2:])
