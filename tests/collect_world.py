"""A checkout with pictures, captions and questions of people, and the stages of collection run in it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import steps._stage
from balcap.records_io import IMAGES, write_table

ROOT = Path(__file__).parents[1]
COUNT, SHARD = 24, 5
PROGRAM = """
import importlib, os, signal, sys
from contextlib import nullcontext
from unittest.mock import Mock
import steps._stage
from balcap.collect.file import FileWriter
stage, last = sys.argv[1], int(sys.argv[2])
steps._stage.stage_run = lambda name, params: nullcontext(Mock())
real, calls = FileWriter.__call__, [0]
def counted(self, sample):
    calls[0] += 1
    if calls[0] == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, sample)
FileWriter.__call__ = counted
steps._stage.main(importlib.import_module("steps." + stage).body)
"""


def picture_id(n: int) -> str:
    return f"{n:064x}"


def picture(n: int) -> bytes:
    """The stored bytes of a picture; nobody decodes them here."""
    return f"picture {n}".encode()


def make_checkout(tmp_path: Path) -> Path:
    """A checkout with pictures, a captions and a questions file, and the code of this one."""
    for name in ("balcap", "steps", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    params = yaml.safe_load((ROOT / "recipes/embedded.yaml").read_text())
    writer = {"name": "file", "encoding": "utf-8"}
    params["collect_references"] = {
        "path": "data/mine/captions.jsonl", "writer": writer, "shard_size": SHARD, "max_failure_share": 0.0,
    }  # fmt: skip
    params["collect_questions"] = {
        "path": "data/mine/questions.jsonl", "writer": writer, "shard_size": SHARD, "per_image": 2,
        "reader": None, "min_accuracy_with_image": None, "max_accuracy_without_image": None,
    }  # fmt: skip
    params["validate_images"] |= {"min_train_images": 10, "min_eval_images": 4, "max_aspect": 2.0}
    params["validate_references"] |= {"min_questions": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "reports/validation/images").mkdir(parents=True)
    (tmp_path / "reports/validation/images/summary.json").write_text("{}")
    write_data(tmp_path / "data")
    return tmp_path


def write_data(data: Path) -> None:
    splits = ["eval" if n % 4 == 0 else "train" for n in range(COUNT)]
    manifest = [
        {"image_id": picture_id(n), "split": split, "origin": f"images/{n}.jpg", "license": "CC0-1.0", "width": 96}
        | {"height": 72, "stored_width": 96, "stored_height": 72, "bytes": 9, "phash": f"{n:016x}"}
        for n, split in enumerate(splits)
    ]
    (data / "mine").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(manifest), data / "manifest.parquet")
    rejects = pa.schema([(name, pa.string()) for name in ("origin", "reason", "detail")])
    write_table(data / "rejects.parquet", [], rejects)
    for split in ("train", "eval"):
        rows = [
            {"image_id": picture_id(n), "image": picture(n), "width": 96, "height": 72, "split": split}
            | {"source": "folder", "license": "CC0-1.0", "meta": "{}"}
            for n in range(COUNT)
            if splits[n] == split
        ]
        write_table(data / f"images/{split}-00000.parquet", rows, IMAGES)
    lines(data / "mine/captions.jsonl", [caption(n) for n in range(COUNT)])
    lines(data / "mine/questions.jsonl", [question(n, k) for n in range(COUNT) for k in range(3)])


def caption(n: int) -> dict[str, Any]:
    return {"image": f"images/{n}.jpg", "caption": f"There are {n} red cars. They are parked."}


def question(n: int, k: int) -> dict[str, Any]:
    return {"image": f"images/{n}.jpg", "question": f"Question {k}?", "options": ["yes", "no"], "answer": "no"}


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def program(checkout: Path, stage: str, kill_at: int) -> subprocess.CompletedProcess[str]:
    """The stage as a process, killed (SIGKILL) at the ``kill_at``-th picture that it writes if it gets there."""
    with started(checkout, stage, kill_at) as process:
        out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def started(checkout: Path, stage: str, kill_at: int = 0) -> subprocess.Popen[str]:
    """The same, not waited for."""
    env = os.environ | {"BALCAP_WORK": str(checkout / ".work")}
    command = [sys.executable, "-c", PROGRAM, stage, str(kill_at)]
    return subprocess.Popen(command, cwd=checkout, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Run:
    """Keeps what a stage hands to tracking."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.metrics: dict[str, float] = {}

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics |= metrics

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.kept[f"{folder}/{path.name}"] = path.read_bytes()


class Stages:
    """Runs a stage's body in this process; what it raises is what the program would print."""

    def __init__(self) -> None:
        self.last = Run()

    def track(self, name: str, params: Any) -> AbstractContextManager[Run]:
        self.last = Run()
        return nullcontext(self.last)

    def __call__(self, stage: str) -> Run:
        importlib.import_module(f"steps.{stage}").body()
        return self.last


def shards(checkout: Path, stage: str) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of finished shards."""
    files = (checkout / ".work" / stage).glob("*/shards/0*/*")
    return {f"{p.parent.name}/{p.name}": (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def stages_in(checkout: Path, patch: pytest.MonkeyPatch) -> Stages:
    """The stages run in this checkout, with its own shared folder."""
    stages = Stages()
    patch.chdir(checkout)
    patch.setenv("BALCAP_WORK", str(checkout / ".work"))
    patch.setattr(steps._stage, "stage_run", stages.track)
    return stages
