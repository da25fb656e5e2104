"""A training of several processes for tests, and the same in one: rollouts of the first steps are recorded.

    record(base, folder, settings, noise)   # one process; sampled captions and what follows from them, into the folder
    python tests/ranks_world.py FOLDER   # one rank of several, started by `launch.start`; FOLDER/task.json tells all

The first :data:`REPLAYED` steps take the recorded captions, so that ranks can be compared with the one process; the
last one samples its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_world as world
from trl import GRPOTrainer

from balcap.params.runtime import Launch
from balcap.policy.store import save_policy
from balcap.records import Assertion, Judgement
from balcap.training.config import ONE_PROCESS
from balcap.training.ranks import is_main, join, run_rank
from balcap.training.run import Trained, train
from balcap.training.stopping import Ended
from balcap.training.trainer import CaptionTrainer

STEPS, REPLAYED, LAST = 4, 3, 2
"""Steps in all, those that are replayed, and the last one before a bad end."""
SETTINGS: dict[str, Any] = {"steps": STEPS, "updates_per_step": 1, "save_every": 1, "samples_every": STEPS}
ROLLOUTS = "rollouts.json"
BAD = {"die": signal.SIGKILL, "stop": signal.SIGSTOP}
"""Signals by which rank 1 ends, or waits for ever, in the middle of a step."""


class Lines:
    """Keeps what is tracked as lines of a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.file.open("a") as f:
            f.write(json.dumps([step, dict(metrics)]) + "\n")

    def table(self, name: str, frame: Any, images: Any = ()) -> None:
        frame.drop(columns="picture").to_json(self.file.with_name(f"{name}-{len(frame)}.json"))


class Watched(CaptionTrainer):
    """Writes each step's advantages into ``folder``; ``end`` tells how the run ends on rank 1."""

    folder: Path
    recorded: dict[str, list[list[int]]]
    sampled: dict[str, list[list[int]]]
    """By step, the token ids of all captions in their order."""
    end = "finish"

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        rank, step = self.accelerator.process_index, self.state.global_step + 1
        np.save(self.folder / f"advantages-{step}-{rank}.npy", output["advantages"].numpy())
        engine = {"wrapped": type(self.model_wrapped).__name__, "as": str(self.accelerator.distributed_type)}
        (self.folder / f"engine-{rank}.json").write_text(json.dumps(engine))
        self._micro = 0
        return output

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self._micro += 1
        if self.end in BAD and (self.state.global_step, self._micro) == (LAST, 1) and not is_main():
            os.kill(os.getpid(), BAD[self.end])
        return loss


class Hashing(world.CountingJudge):
    """Verdicts by the caption's own hash: captions of noise, none of which is true, are worth different rewards."""

    async def judge_group(self, sample: Any, reference: Any, captions: Any, *_: Any, **__: Any) -> list[Judgement]:
        await asyncio.sleep(0)
        return [_verdict(hashlib.sha256(caption.text.encode()).digest(), len(reference.units)) for caption in captions]


def _verdict(digest: bytes, units: int) -> Judgement:
    odd = [byte % 2 == 1 for byte in digest]
    said = tuple(Assertion(str(i), odd[i], True) for i in range(4))
    return Judgement(assertions=said, covered=tuple(odd[4 : 4 + units]), clarity=1 + digest[-1] % 5)


def judge(task: dict[str, Any]) -> world.CountingJudge:
    """The rank's judge; with the end ``hang``, that of rank 1 stops answering."""
    found = Hashing() if task["noise"] else world.CountingJudge()
    answer = found.judge_group

    async def until_gone(*args: Any, **kwargs: Any) -> list[Judgement]:
        trainer: Any = Watched.running
        if trainer.state.global_step >= LAST:
            await asyncio.sleep(3600)
        return await answer(*args, **kwargs)

    if task["end"] == "hang" and not is_main():
        found.judge_group = until_gone  # type: ignore[method-assign]
    return found


def replaying(original: Any) -> Any:
    """TRL's sampling of captions, with those of the first steps put in their place, or written down."""

    def single_turn(self: Watched, prompt_ids: Any, *args: Any) -> Any:
        step, mine = str(self.state.global_step + 1), len(prompt_ids) * self.accelerator.process_index
        if self.recorded and int(step) <= REPLAYED:
            return self.recorded[step][mine : mine + len(prompt_ids)], None
        completions, logps = original(self, prompt_ids, *args)
        self.sampled[step] = completions
        return completions, logps

    return single_turn


def run(folder: Path, task: dict[str, Any], launch: Launch) -> Trained:
    """Train in this process, as a rank or alone."""
    from balcap.training import run as room

    def watched(*args: Any) -> Any:
        Watched.running = Watched(*args)
        return Watched.running

    Watched.folder, Watched.end = folder, task["end"]
    rollouts = folder.parent / ROLLOUTS
    Watched.sampled = {}
    Watched.recorded = json.loads(rollouts.read_text()) if rollouts.exists() else {}
    kept = GRPOTrainer._generate_single_turn, room.CaptionTrainer
    GRPOTrainer._generate_single_turn, room.CaptionTrainer = replaying(kept[0]), watched
    try:
        samples, references = world.data()
        settings = world.settings(**SETTINGS, **task["settings"])
        run = Lines(folder / f"log-{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}.jsonl")
        return train(settings, Path(task["base"]), samples, references, {}, folder / "work", run, judge(task), launch)
    finally:
        GRPOTrainer._generate_single_turn, room.CaptionTrainer = kept


def record(base: Path, folder: Path, settings: dict[str, Any], noise: bool) -> None:
    """Train in this process alone and keep the captions that it sampled; ``noise``: they are noise."""
    folder.mkdir(parents=True)
    run(folder, {"end": "finish", "settings": settings, "base": str(base), "noise": noise}, ONE_PROCESS)
    (folder.parent / ROLLOUTS).write_text(json.dumps(Watched.sampled))


def rank() -> None:
    """One rank."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    task = json.loads((folder / "task.json").read_text())
    launch = Launch.model_validate(task["launch"])
    join(launch)
    result = run(folder, task, launch)
    if is_main():
        save_policy(result.policy, folder / "policy")


if __name__ == "__main__":
    run_rank(rank, (Ended,))
