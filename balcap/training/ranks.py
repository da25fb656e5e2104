"""One process of several that train together: its group, its end.

    def body() -> None:
        join(runtime.launch)
        ...
    run_rank(body, explained=(TrainingError,))

- It never outlives its stage: a thread looks twice a second whether the stage is still its parent.
- What it raises is told by the stage, once for all ranks, not printed here.
- It never waits for ever: every collective operation ends after ``runtime.launch.collective_timeout``.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from balcap.params.runtime import Launch

STAGE = "BALCAP_STAGE_PID"
"""Environment variable with the process id of the stage that started this rank."""
EXPLAINED = 3
"""Exit code of a rank whose error is explained by its message alone."""
LOOK = 0.5
T = TypeVar("T")


def is_main() -> bool:
    """Whether this process is the one that prints, tracks and writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def from_main(ask: Callable[[], T]) -> T:
    """What ``ask`` returns on the first rank, told to all; the others do not ask."""
    if not torch.distributed.is_initialized():
        return ask()
    told = [ask() if is_main() else None]
    torch.distributed.broadcast_object_list(told)
    return cast(T, told[0])


def run_rank(body: Callable[[], None], explained: tuple[type[Exception], ...]) -> None:
    """Run ``body``; an exception is left for the stage, with exit code :data:`EXPLAINED` or 1."""
    _end_with(int(os.environ[STAGE]))
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    get_error_handler().initialize()
    try:
        body()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    except Exception as error:
        try:
            _leave_word(error)
        finally:
            # At once: leaving the ordinary way would wait for other ranks that wait for this one.
            os._exit(EXPLAINED if isinstance(error, explained) else 1)


def _leave_word(error: Exception) -> None:
    """Write down for the stage what happened; where the disk takes nothing more, print it."""
    try:
        get_error_handler().record_exception(error)
    except OSError:
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).unlink(missing_ok=True)  # half of it would end the stage's agent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()


def join(launch: Launch) -> None:
    """Form the process group of all ranks, as TRL finds it: NCCL on GPUs, else gloo; under DeepSpeed its own."""
    timeout = timedelta(seconds=launch.collective_timeout)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if cuda else "gloo"
    if launch.deepspeed == "none":
        torch.distributed.init_process_group(backend, timeout=timeout)
        return
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    if not cuda:
        import deepspeed

        # Otherwise an operation for shared memory is compiled at first use: minutes, and a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    from accelerate import PartialState
    from deepspeed.utils import groups

    # Without this the trainer, given a DeepSpeed configuration on CPU, would believe to be one process.
    PartialState(backend=backend, timeout=timeout)
    # What DeepSpeed reduces over, a copy of all ranks; one of its own making has torch's timeout, not this one.
    groups._WORLD_GROUP = torch.distributed.new_group(timeout=timeout)


def _end_with(stage: int) -> None:
    """Kill this process and its children when the stage is gone: a rank is in a session of its own."""

    def watch() -> None:
        while os.getppid() == stage:
            time.sleep(LOOK)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="stage", daemon=True).start()
