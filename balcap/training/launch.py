"""Starts the processes of `train`: torchrun's agent, run inside the stage, and one process per rank under it.

    if not alone(params.runtime):
        start(params.runtime, ["-m", "steps._rank", work, journal])

The agent is torchrun's own (``torch.distributed.launcher``), called as a library, so that the stage itself is the
parent of its ranks and learns how each one ended. When one rank dies the others are stopped, and the reason of the
first is told once. Ranks have sessions of their own; they end themselves when the stage is gone (``ranks.py``).

On several machines the stage runs on each; they meet at ``MASTER_ADDR:MASTER_PORT``, and ``NODE_RANK`` counts them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from balcap.llm.base import Mismatch
from balcap.params.runtime import Launch, Runtime
from balcap.policy.folder import PolicyError
from balcap.training.data import TrainingError
from balcap.training.ranks import EXPLAINED, STAGE
from balcap.training.stopping import Ended
from balcap.workspace import main_checkout

FAULTS = (TrainingError, Ended, Mismatch, PolicyError)
"""What a person can act on by its message alone."""
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
SAVE_SECONDS = 300
"""Seconds between SIGTERM and SIGKILL to a rank when the stage is asked to end: time to write a checkpoint."""
TOGETHER = 2
"""Seconds within which ranks fail of one cause: neighbours of a killed one may report first."""
TIMED_OUT = "Timed out waiting"
"""What gloo says of a rank that does not come."""
GAVE_UP = "it gave up waiting for another rank, runtime.launch.collective_timeout"
MEANINGS = {
    "SIGKILL": " (SIGKILL is also what a machine without memory left does)",
    "SIGABRT": f" (from NCCL: {GAVE_UP})",
}


class RankFailed(RuntimeError):
    """A process of the training ended without having explained itself."""


def alone(runtime: Runtime) -> bool:
    """Whether `train` needs no process but the stage's own."""
    launch = runtime.launch
    return launch.ranks == 1 and launch.deepspeed == "none" and runtime.train_python is None


def node_rank(launch: Launch) -> int:
    """Which machine of the job this is; 0 where nothing else is said. Raises :class:`TrainingError`.

    One too many would be a second job in the work folder of the first, without its lock.
    """
    said = os.environ.get("NODE_RANK") or "0"
    if not said.isdecimal() or int(said) >= launch.nodes:
        raise TrainingError(
            f"NODE_RANK is {said}, and runtime.launch.nodes {launch.nodes}: machines are numbered from 0 to "
            f"{launch.nodes - 1}; unset NODE_RANK or correct one of the two"
        )
    return int(said)


def start(runtime: Runtime, arguments: Sequence[str]) -> None:
    """Run ``train_python *arguments`` once per rank of this machine and wait for all.

    Raises :class:`TrainingError` (what a rank explained) or :class:`RankFailed`. A signal goes to the ranks, which get
    :data:`SAVE_SECONDS` for a checkpoint and their explanation; without one this process ends by the signal if it can.
    """
    python = _interpreter(runtime.train_python)
    launch = runtime.launch
    ended: signal.Signals | None = None
    with tempfile.TemporaryDirectory(prefix="balcap-ranks-") as logs, _own_handlers(), _silent_agent():
        os.environ |= {
            STAGE: str(os.getpid()),
            "OMP_NUM_THREADS": str(runtime.threads),
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        try:
            elastic_launch(_config(launch, logs), python)("-u", *arguments)
        except ChildFailedError as error:
            raise _explained(error.failures, launch.ranks) from None
        except (DistError, RendezvousError) as error:
            raise _apart(launch, error) from None
        except SignalException as error:
            ended, told = error.sigval, sorted(Path(logs).rglob("error.json"))
            if told:
                raise TrainingError(_said(json.loads(told[0].read_text())["message"])) from None
    if ended is not None:
        os.kill(os.getpid(), ended)  # for the stage's own handler, which is in its place again
        # Still here: nobody handles it, and in a container the kernel ends no process 1 by a signal.
        raise RankFailed(f"ended by {ended.name}, and no rank had anything to keep; run again")


def _interpreter(configured: str | None) -> str:
    """Python of the ranks; not resolved, for the link of a virtual environment is what makes it one."""
    if configured is None:
        return sys.executable
    python = main_checkout() / configured
    if not os.access(python, os.X_OK):
        raise TrainingError(
            f"runtime.train_python: {python} is no program; name the python of an environment with torch, trl and "
            "balcap, or null for the one that runs the stages"
        )
    return str(python)


def _config(launch: Launch, logs: str) -> LaunchConfig:
    return LaunchConfig(
        min_nodes=launch.nodes,
        max_nodes=launch.nodes,
        nproc_per_node=launch.processes,
        max_restarts=0,  # a job begins anew as a whole, from its checkpoint, and only when somebody says so
        run_id=os.environ.get("SLURM_JOB_ID", "balcap") if launch.nodes > 1 else uuid.uuid4().hex,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        shutdown_timeout=SAVE_SECONDS,
        local_addr=None if launch.nodes > 1 else "127.0.0.1",
        **_meeting(launch),
    )


def _meeting(launch: Launch) -> dict:
    """Where the machines find each other: a free port of this one, or what the environment says."""
    timeout, rank = int(launch.collective_timeout), node_rank(launch)
    if launch.nodes == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "rdzv_configs": {"timeout": timeout}}
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not os.environ.get(name)]
    if missing:
        raise TrainingError(
            f"runtime.launch.nodes = {launch.nodes}: {', '.join(missing)} must be set on every machine (the address "
            "and a free port of the first, and 0, 1, … as its number); deploy/ has examples"
        )
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": _endpoint(),
        "rdzv_configs": {"rank": rank, "timeout": timeout},
    }


def _endpoint() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def _apart(launch: Launch, error: Exception) -> Exception:
    """What the agent raises before it starts a rank: machines that do not come, a port that is not free."""
    why = str(error).partition("\n")[0]
    if launch.nodes == 1:
        return RankFailed(f"the ranks of this machine did not meet: {why}")
    return TrainingError(
        f"{_endpoint()}: not all {launch.nodes} machines met within {int(launch.collective_timeout)} s (this one has "
        f"NODE_RANK {node_rank(launch)}): {why}; run the stage on all of them at once, with the address of the first "
        "as MASTER_ADDR and a port that is free there and open to the others as MASTER_PORT"
    )


def _explained(failures: Mapping[int, ProcessFailure], ranks: int) -> Exception:
    """The one failure that the others follow from, as an exception for the stage."""
    earliest = min(failure.timestamp for failure in failures.values())
    first = {r: f for r, f in sorted(failures.items()) if f.timestamp <= earliest + TOGETHER}
    rank, failure = min(first.items(), key=lambda item: _consequence(item[1]))
    # Without a file of the rank's own the agent puts a sentence there.
    told: Any = failure.message if isinstance(failure.message, dict) else None
    if failure.exitcode == EXPLAINED and told:
        return TrainingError(_said(told))
    who = f"rank {rank} of {ranks} (process {failure.pid})"
    kept = "finished steps are kept up to the last checkpoint; run again to go on from there"
    if failure.exitcode < 0:
        name = failure.signal_name()
        return RankFailed(f"{who} was ended by {name}{MEANINGS.get(name, '')}; {kept}")
    if not told:
        return RankFailed(f"{who} ended with code {failure.exitcode}; {kept}")
    print(told["extraInfo"]["py_callstack"], file=sys.stderr, flush=True)
    why = f" ({GAVE_UP})" if TIMED_OUT in told["message"] else ""
    return RankFailed(f"{who}: {told['message']}{why}; {kept}")


def _consequence(failure: ProcessFailure) -> int:
    """0 for a cause, more for what may follow from another rank's end: an error of the connection, NCCL's abort after
    a wait in vain, our SIGTERM.
    """
    code = failure.exitcode
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        return 4
    return 3 if code == -signal.SIGABRT else 0 if code < 0 else 1 if code == EXPLAINED else 2


def _said(message: Any) -> str:
    """The text of an exception that a rank left behind, without its type."""
    return str(message["message"]).partition(": ")[2]


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Put the stage's signal handlers back, which the agent replaces."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _silent_agent() -> Iterator[None]:
    """Without the agent's own report of a failure: it says the same at greater length."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
