"""One rank of a training that meets one misfortune after the other, each on the last rank alone.

    python tests/survival_world.py FOLDER STAGE      # started by `launch.start`

Each act trains as far as it comes; how it ended on this rank goes to FOLDER/ends-RANK.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import train_world as world
from accelerate.state import AcceleratorState

from balcap.params.runtime import Launch
from balcap.policy.store import save_policy
from balcap.training import manifest
from balcap.training.checkpoint import Checkpointed
from balcap.training.deepspeed import plain_loading
from balcap.training.ranks import is_main, join, run_rank
from balcap.training.run import train
from balcap.training.trainer import CaptionTrainer

SETTINGS: dict[str, Any] = {"steps": 4, "save_every": 2, "micro_batch_size": 2}
MICRO = 2
"""Micro-steps of an update on one of two ranks."""


def launch(stage: str) -> dict[str, Any]:
    """``runtime.launch`` of two processes."""
    return {"nodes": 1, "processes": 2, "deepspeed": stage, "offload": "none", "collective_timeout": 120.0}


def in_loss(at: int, do: Callable[[CaptionTrainer], float | None]) -> None:
    """Let the last rank do something once, inside the micro-step of that number, counted over the whole run."""
    original = CaptionTrainer._compute_loss

    def loss(self: CaptionTrainer, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        if is_main() or self.state.global_step * MICRO + self._step % MICRO != at:
            return found
        factor = do(self)
        return found if factor is None else found * factor

    CaptionTrainer._compute_loss = loss  # type: ignore[method-assign]


def full_disk(self: Checkpointed) -> None:
    """The last rank cannot write in the second checkpoint."""
    if not is_main() and self.state.global_step == 8:
        raise OSError(28, os.strerror(28))


def misfortune(act: str) -> None:
    """Prepare what happens in ``act``."""
    if act == "sigterm":
        in_loss(8, lambda trainer: os.kill(os.getpid(), signal.SIGTERM))
    if act == "nan":
        in_loss(12, lambda trainer: float("nan"))
    if act == "full disk":
        original = Checkpointed._write

        def write(self: Checkpointed, *args: Any) -> None:
            original(self, *args)
            full_disk(self)

        Checkpointed._write = write  # type: ignore[method-assign]


def late_disk() -> None:
    """A listing of the last rank does not show what the first one wrote, as on a disk over the network."""
    listed = manifest.files

    def files(folder: Path) -> list[str]:
        return [name for name in listed(folder) if is_main() or os.environ["RANK"] in name]

    manifest.files = files


def play(act: str, folder: Path, stage: str) -> str:
    """Train in ``folder``; how it ended."""
    AcceleratorState._reset_state()  # DeepSpeed's are meant for one training per process
    plain_loading()
    kept = CaptionTrainer._compute_loss, Checkpointed._write
    misfortune(act)
    samples, references = world.data()
    settings, base = world.settings(**SETTINGS), folder.parent / "base"
    judge, there = world.CountingJudge(), Launch.model_validate(launch(stage))
    try:
        result = train(settings, base, samples, references, {}, folder, world.Tracked(), judge, there)
    except (RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        CaptionTrainer._compute_loss, Checkpointed._write = kept  # type: ignore[method-assign]
    if is_main():
        save_policy(result.policy, folder.parent / f"policy-{folder.name}")
    return "finished"


def rank() -> None:
    """All acts: an undisturbed run, and one that is disturbed again and again."""
    torch.set_num_threads(1)
    late_disk()
    folder, stage = Path(sys.argv[1]), sys.argv[2]
    join(Launch.model_validate(launch(stage)))
    acts = [("quiet", "quiet"), *((act, "disturbed") for act in ("sigterm", "nan", "full disk", "again"))]
    ends = {act: play(act, folder / where, stage) for act, where in acts}
    (folder / f"ends-{os.environ['RANK']}.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    run_rank(rank, ())
