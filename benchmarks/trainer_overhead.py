"""What our trainer adds to TRL's: CPU seconds of a step, ours against stock TRL, with rewards that cost nothing.

    python benchmarks/trainer_overhead.py [--pairs 24]

Same captioner (the embedded default's, untrained, with sixty words), pictures, captions and settings (the embedded
recipe's, with a quarter of its batch); a step is everything from one generation to the next. Ours turns a judge's
answers into rewards, masks, advantages and metrics, watches them for alarms and writes them to the journal from which
another process sends them to MLflow; stock TRL has three reward functions that return numbers, and reports nowhere. Not
counted: checkpoints, and the look at a few fixed pictures every so many steps. Both run in one process, in turn, on one
thread.

step     median of the pairs' ratios, ours / stock; goal <= 1.03
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from _trainers import SlowJudge, Turns, captioner, instant, median_interval, pictures, prepared, settings, stock

from balcap.params.train import Train
from balcap.records import Picture
from balcap.tracking import StageRun
from balcap.training.callbacks import History, Reporter
from balcap.training.judging import Judging
from balcap.training.run import make_trainer
from balcap.training.trainer import CaptionTrainer

GOAL = 1.03
JOURNAL = "journal.jsonl"
WARM_UP = 2
"""First pairs, in which caches and the allocator settle; not counted."""


def main() -> None:
    """Run the pairs, print one line and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    mine, theirs, kept = measure(parser.parse_args().pairs)
    ratio, interval = median_interval(mine / theirs)
    holds = ratio <= GOAL
    line = {"benchmark": "trainer_overhead/step", "ratio": round(ratio, 6), "interval": interval}
    seconds = {"ours": round(float(np.median(mine)), 4), "against": round(float(np.median(theirs)), 4)}
    print(json.dumps({**line, **seconds, "goal": f"<= {GOAL}", "holds": holds}))
    print(json.dumps({"benchmark": "trainer_overhead", "pairs": len(mine), "kept": kept, "holds": holds}))


def measure(pairs: int) -> tuple[np.ndarray, np.ndarray, int]:
    """CPU seconds per step of ours and of stock TRL, pair by pair, who goes first alternates; lines of the journal."""
    total = WARM_UP + pairs
    never = total + 2
    params = settings(
        steps=total + 1,
        global_batch_size=32,
        micro_batch_size=16,
        judge_deadline=600.0,
        samples_every=never,
        save_every=never,
    )
    shown, judging = pictures(16, 96, 96), Judging(SlowJudge(), params)
    left, right = Turns(params.updates_per_step), Turns(params.updates_per_step)
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        base = captioner(Path(folder) / "base")
        trainer = ours(params, base, shown, judging, Path(folder), left)
        left.start(trainer)
        functions = list(instant(judging.names))
        right.start(stock(params, base, trainer.train_dataset, functions, trainer.args, right))
        for number in range(total):
            for side in (left, right) if number % 2 else (right, left):
                side.phase()
        kept = len((Path(folder) / JOURNAL).read_text(encoding="utf-8").splitlines())
    return np.array(left.cpu[WARM_UP:total]), np.array(right.cpu[WARM_UP:total]), kept


def ours(
    params: Train, base: Path, shown: list[Picture], judging: Judging, folder: Path, turns: Turns
) -> CaptionTrainer:
    """Our trainer as the stage builds it, with its curves, alarms and journal."""
    journal = folder / JOURNAL
    journal.touch()
    reporter = Reporter(params, judging, shown[:1], History(), StageRun.join("train", journal))
    trainer = make_trainer(params, prepared(params, base), shown, judging, reporter, folder / "work")
    trainer.add_callback(turns)
    return trainer


if __name__ == "__main__":
    main()
