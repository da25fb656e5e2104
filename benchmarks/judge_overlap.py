"""How long a step waits for a slow judge: ours, stock TRL, and the best that the synchronous algorithm allows.

    python benchmarks/judge_overlap.py [--pairs 12]

The judge takes as long as the rest of a step, which is measured first. Rewards cannot be had before the captions are
there and are needed before the update; what lies between (processing the pictures again, the log-probability pass) is
all that can hide a judge. Stock TRL asks an asynchronous reward function that takes as long. Both trainers run in one
process, in turn; wall seconds, because a judge that answers elsewhere costs no CPU.

exposed  seconds that ours waits for rewards / the judge's seconds; goal: within 0.05 of the best, which is
         (judge - between) / judge, where `between` is stock TRL's time from captions to rewards
stock    the same share for stock TRL; stated
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _trainers import SlowJudge, Turns, captioner, median_interval, ours, pictures, settings, stock
from trl import GRPOTrainer

from balcap.training.judging import Judging
from balcap.training.trainer import CaptionTrainer

WITHIN = 0.05
WARM_UP = 3
"""First phases, with a judge that answers at once; all but the first give the time of the rest of a step."""


class Watched(GRPOTrainer):
    """Notes how long after its captions a phase asks for rewards, and how long it then waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.between: list[float] = []
        self.waited: list[float] = []
        super().__init__(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._generate_single_turn(*args, **kwargs)
        self._there = time.perf_counter()
        return found

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        asked = time.perf_counter()
        found = super()._calculate_rewards(*args, **kwargs)
        self.between.append(asked - self._there)
        self.waited.append(time.perf_counter() - asked)
        return found


class WatchedCaptionTrainer(Watched, CaptionTrainer):
    """Ours, watched."""


def main() -> None:
    """Run the pairs, print two lines and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    judge, mine, theirs, between = measure(parser.parse_args().pairs)
    best = np.maximum(judge - between, 0.0)
    ratio, interval = median_interval(mine / judge)
    whole, around = median_interval(theirs / judge)
    limit = round(float(np.median(best / judge)) + WITHIN, 4)
    lines = [
        line("exposed", ratio, interval, mine, judge, f"<= {limit} (best + {WITHIN})", ratio <= limit),
        line("stock", whole, around, theirs, judge, "stated", True),
    ]
    for found in lines:
        print(json.dumps(found))
    seconds = {"judge": round(judge, 4), "between": round(float(np.median(between)), 4)}
    print(json.dumps({"benchmark": "judge_overlap", "seconds": seconds, "holds": all(row["holds"] for row in lines)}))


def line(
    name: str, ratio: float, interval: list[float], waited: np.ndarray, judge: float, goal: str, holds: bool
) -> dict[str, Any]:
    """One row: share of the judge's time, from the seconds waited and the judge's."""
    seconds = {"ours": round(float(np.median(waited)), 4), "against": round(judge, 4)}
    row = {"benchmark": f"judge_overlap/{name}", "ratio": round(ratio, 6), "interval": interval}
    return {**row, **seconds, "goal": goal, "holds": holds}


def measure(pairs: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """The judge's seconds; per pair what ours and stock TRL waited, and stock TRL's time between."""
    total = WARM_UP + pairs
    params = settings(steps=total + 1, global_batch_size=32, micro_batch_size=16, judge_deadline=600.0)
    shown, judge = pictures(16, 96, 96), SlowJudge()
    judging, left, right = Judging(judge, params), Turns(params.updates_per_step), Turns(params.updates_per_step)

    async def reward(completion_ids: Any, **_: Any) -> list[float]:
        await asyncio.sleep(judge.seconds)
        return [len(ids) % 7 / 6 for ids in completion_ids]

    async def nothing(completion_ids: Any, **_: Any) -> list[float]:
        return [0.0] * len(completion_ids)

    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        base = captioner(Path(folder) / "base")
        a = ours(params, base, shown, judging, Path(folder) / "work", left, kind=WatchedCaptionTrainer)
        b = stock(params, base, a.train_dataset, [reward, nothing, nothing], a.args, right, kind=Watched)
        left.start(a)
        right.start(b)
        for number in range(total):
            if number == WARM_UP:
                judge.seconds = float(np.median(right.wall[1:]))
            for side in (left, right) if number % 2 else (right, left):
                side.phase()
    counted = slice(WARM_UP, total)
    return judge.seconds, *(np.array(x[counted]) for x in (a.waited, b.waited, b.between))


if __name__ == "__main__":
    main()
