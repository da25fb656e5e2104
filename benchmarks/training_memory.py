"""Memory of the training process, at its last step against step 20, on the embedded default.

    make demo && python benchmarks/training_memory.py [--steps 220]

Needs what `make demo` leaves: `data/` and `models/base` of `recipes/embedded.yaml`; trains in a temporary folder, with
samples and checkpoints as often as the recipe has them, and writes nothing else.

memory   proportional set size of the process, mean of the last 20 steps / of the 20 steps around step 20; goal <= 1.02

Both sides are taken from one run; the interval is a bootstrap over the steps of each side.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from balcap.judge import JUDGES
from balcap.params import load_params
from balcap.records_io import read_references, read_samples
from balcap.training.run import train

ROOT = Path(__file__).parents[1]
EARLY, WINDOW, GOAL = 20, 20, 1.02


class Memory:
    """Takes the process's memory after each step, in MB."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.process = psutil.Process()

    def log(self, metrics: Any, step: int | None = None) -> None:
        if "time/step" in metrics:
            self.seen.append(self.process.memory_full_info().pss / 1e6)

    def table(self, name: str, frame: Any, images: Any = ()) -> None:
        """Samples are not measured."""


def main() -> None:
    """Train, print the line and the last one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=220)
    steps = parser.parse_args().steps
    if steps < EARLY + 2 * WINDOW:
        sys.exit(f"error: --steps {steps}: at least {EARLY + 2 * WINDOW}, so that both sides lie apart")
    seen = np.array(measure(steps))
    found = line(seen[EARLY - WINDOW // 2 : EARLY + WINDOW // 2], seen[-WINDOW:], steps)
    print(json.dumps(found))
    print(json.dumps({"benchmark": "training_memory", "holds": found["holds"]}))


def measure(steps: int) -> list[float]:
    """MB after each of ``steps`` steps."""
    if not (ROOT / "models/base").is_dir() or not (ROOT / "data/images").is_dir():
        sys.exit("error: models/base and data/images are missing; `make demo` makes them")
    params = load_params(ROOT / "recipes/embedded.yaml")
    torch.set_num_threads(params.runtime.threads)
    run = Memory()
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        samples, references = read_samples(ROOT / "data/images"), read_references(ROOT / "data/references.parquet")
        settings = params.train.model_copy(update={"steps": steps})
        train(settings, ROOT / "models/base", samples, references, {}, Path(folder), run, JUDGES["oracle"]())
    return run.seen


def line(early: np.ndarray, late: np.ndarray, steps: int) -> dict[str, Any]:
    """The goal's line."""
    rng = np.random.default_rng(0)
    means = [side[rng.integers(0, len(side), (10_000, len(side)))].mean(axis=1) for side in (late, early)]
    ratio = float(late.mean() / early.mean())
    return {
        "benchmark": f"training_memory/step {steps} to step {EARLY}",
        "ratio": round(ratio, 4),
        "interval": [round(float(q), 4) for q in np.quantile(means[0] / means[1], [0.025, 0.975])],
        "ours": round(float(late.mean()), 1),
        "against": round(float(early.mean()), 1),
        "goal": f"<= {GOAL}",
        "holds": ratio <= GOAL,
    }


if __name__ == "__main__":
    main()
