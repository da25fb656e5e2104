"""Training against an endpoint: the recipe embedded-llm-judge beside `balcap serve oracle` (about half an hour).

Seven runs in one fresh clone share data and starting captioner: one with the oracle in process, three seeds
against an endpoint that answers every question, and three against one that leaves 5 % of them without an answer in
form, whatever the attempt. They take 60 of the recipe's 210 steps: two thirds of the rise lie there, and six full runs
take an hour (LOG.md has those).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from balcap.processes import group
from flows._server import free_port

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
STEPS, LAST = 60, 10
SEEDS = (0, 1, 2)
FAIL = 0.05
REWARDS = ("precision", "recall", "linguistic")
BALCAP = [sys.executable, "-m", "flows.cli"]
ENV = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@dataclass(frozen=True)
class Run:
    """What a run left in reports/train."""

    summary: dict[str, float]
    text: str

    @property
    def curves(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.text.splitlines()))

    def column(self, name: str) -> np.ndarray:
        return np.array([float(row[name]) for row in self.curves])

    @property
    def reward(self) -> np.ndarray:
        """The mean reward of each step."""
        return np.mean([self.column(f"reward/{name}/mean") for name in REWARDS], axis=0)


def balcap(root: Path, *words: str, recipe: str = "embedded-llm-judge") -> subprocess.CompletedProcess[str]:
    command = [*BALCAP, "run", "--recipe", recipe, "--apply", *words]
    return subprocess.run(command, cwd=root, env=ENV, capture_output=True, text=True, timeout=3600)


def train(root: Path, url: str, seed: int, revision: str) -> subprocess.CompletedProcess[str]:
    """Another endpoint is another revision of the model: neither DVC nor the cache of answers may mix the two."""
    changes = {
        "train.seed": seed,
        "train.steps": STEPS,
        "train.judge.model_revision": revision,
        "runtime.serving.oracle.urls": f"['{url}']",
    }
    return balcap(root, *(word for key, value in changes.items() for word in ("-S", f"{key}={value}")), "train")


@contextmanager
def serving(root: Path, *words: str) -> Iterator[str]:
    """`balcap serve oracle` on a free port, once it listens."""
    port, log = free_port(), root.with_name(f"serve-{'-'.join(words)}.log")
    command = [*BALCAP, "serve", "oracle", "--port", str(port), *words]
    with group(command, cwd=root, env=ENV, log=log) as process:
        deadline = time.monotonic() + 120
        while "pictures; " not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with data and starting captioner."""
    root = tmp_path_factory.mktemp("llm") / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    done = balcap(root, "warmstart")
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[tuple[float, int], Run]:
    """Of each share of failures and seed."""
    found = {}
    with ExitStack() as endpoints:
        urls = {fail: endpoints.enter_context(serving(root, "--fail", str(fail))) for fail in (0.0, FAIL)}
        for fail, url in urls.items():
            for seed in SEEDS:
                found[fail, seed] = result(root, train(root, url, seed, f"truth-failing-{fail}"))
    return found


def result(root: Path, done: subprocess.CompletedProcess[str]) -> Run:
    assert done.returncode == 0, done.stdout + done.stderr
    reports = root / "reports/train"
    return Run(json.loads((reports / "summary.json").read_text()), (reports / "curves.csv").read_text())


def test_without_an_endpoint_it_stops_and_says_what_to_do(root: Path) -> None:
    done = train(root, f"http://127.0.0.1:{free_port()}/v1", 0, "nobody")
    assert done.returncode == 1
    for said in ("100.0% of its answers are unknown in step 1", "no endpoint", "run again when the judge works"):
        assert said in done.stdout + done.stderr


def test_it_learns_step_by_step_what_the_oracle_in_process_teaches(
    root: Path, runs: dict[tuple[float, int], Run]
) -> None:
    local = result(root, balcap(root, "-S", f"train.steps={STEPS}", "train", recipe="embedded"))
    assert local.text == runs[0.0, 0].text


def test_rewards_rise_with_and_without_failures(runs: dict[tuple[float, int], Run]) -> None:
    for run in runs.values():
        assert run.summary["steps"] == STEPS and run.summary["reward_rise_low"] > 0.05
        assert all(run.column(f"reward/{name}/mean")[-LAST:].mean() > run.column(f"reward/{name}/mean")[0] - 0.02
                   for name in REWARDS)  # fmt: skip


def test_the_failures_reach_training_as_unknown_parts(runs: dict[tuple[float, int], Run]) -> None:
    for (fail, _), run in runs.items():
        rates = run.column("judge/failure_rate")
        assert abs(rates.mean() - fail) < 0.015 and (rates > 0).all() == bool(fail)
        for name in REWARDS:
            assert (run.column(f"reward/{name}/unknown").max() > 0) == bool(fail)


def test_five_percent_failures_change_the_last_steps_by_little(runs: dict[tuple[float, int], Run]) -> None:
    last = {key: run.reward[-LAST:].mean() for key, run in runs.items()}
    assert all(abs(last[FAIL, seed] - last[0.0, seed]) <= 0.05 for seed in SEEDS), last
