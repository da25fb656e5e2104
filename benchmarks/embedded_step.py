"""One step of reinforcement learning on the embedded default: where its time goes.

    make demo && python benchmarks/embedded_step.py [--steps 12]

Needs what `make demo` leaves: `data/` and `models/base` of `recipes/embedded.yaml`; trains in a temporary folder and
writes nothing else. A step is generation, judging (in the background, so that only the wait counts), log-probabilities
before the update, update, and the rest: TRL's and our own work around them.

rest     seconds of a step that none of these phases explains / seconds of the step; goal <= 0.25
oracle   seconds from dispatching a step's captions to their judgements / seconds of the step; goal <= 0.05

Both sides of a ratio are taken from the same steps; the interval is a bootstrap over steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from balcap.judge import JUDGES
from balcap.params import load_params
from balcap.records_io import read_references, read_samples
from balcap.training.run import train

ROOT = Path(__file__).parents[1]
GOALS = {"rest": 0.25, "oracle": 0.05}
PHASES = ("generate", "judge_exposed", "logprobs", "update")
WARM_UP = 2
"""First steps, in which caches and the allocator settle; not counted."""


class Times:
    """Keeps the times that a run would log."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def log(self, metrics: Any, step: int | None = None) -> None:
        times = {name.removeprefix("time/"): value for name, value in metrics.items() if name.startswith("time/")}
        if times:
            self.steps.append(times)

    def table(self, name: str, frame: Any, images: Any = ()) -> None:
        """Samples are not measured."""


def main() -> None:
    """Train a few steps, print one line per goal and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    steps = measure(parser.parse_args().steps)
    spent = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    rest = spent["step"] - sum(spent[phase] for phase in PHASES)
    lines = [line("rest", rest, spent["step"]), line("oracle", spent["judge_total"], spent["step"])]
    for found in lines:
        print(json.dumps(found))
    split = {name: round(float(values.mean()), 4) for name, values in {**spent, "rest": rest}.items()}
    holds = all(found["holds"] for found in lines)
    print(json.dumps({"benchmark": "embedded_step", "seconds": split, "holds": holds}))


def measure(steps: int) -> list[dict[str, float]]:
    """Seconds per phase of ``steps`` steps behind the warm-up."""
    if not (ROOT / "models/base").is_dir() or not (ROOT / "data/images").is_dir():
        sys.exit("error: models/base and data/images are missing; `make demo` makes them")
    params = load_params(ROOT / "recipes/embedded.yaml")
    torch.set_num_threads(params.runtime.threads)
    total = WARM_UP + steps
    few = params.train.model_copy(update={"steps": total, "samples_every": total, "save_every": total})
    run = Times()
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        samples, references = read_samples(ROOT / "data/images"), read_references(ROOT / "data/references.parquet")
        train(few, ROOT / "models/base", samples, references, {}, Path(folder), run, JUDGES["oracle"]())
    return run.steps[WARM_UP:]


def line(name: str, ours: np.ndarray, against: np.ndarray) -> dict[str, Any]:
    """One goal: the share of ``ours`` in ``against``, seconds per step."""
    draws = np.random.default_rng(0).integers(0, len(ours), (10_000, len(ours)))
    low, high = np.quantile(ours[draws].sum(axis=1) / against[draws].sum(axis=1), [0.025, 0.975])
    ratio = float(ours.sum() / against.sum())
    return {
        "benchmark": f"embedded_step/{name}",
        "ratio": round(ratio, 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "ours": round(float(ours.mean()), 4),
        "against": round(float(against.mean()), 4),
        "goal": f"<= {GOALS[name]}",
        "holds": ratio <= GOALS[name],
    }


if __name__ == "__main__":
    main()
