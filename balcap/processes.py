"""Process groups that never outlive whoever started them.

    with group(["vllm", "serve", ...], cwd=folder, env=os.environ, log=folder / "log") as process: ...

Every way out of the block ends the whole group: SIGTERM, a grace period, SIGKILL. Should this process itself be killed,
a watchdog that holds the read end of a pipe does the same.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL where nobody says otherwise."""
KILLED = 10.0
"""Seconds that the kernel may take to end what was sent SIGKILL."""
# Reads until its parent is gone, then ends the group whose number it was given, with as many seconds of grace.
WATCHDOG = """
cat > /dev/null
kill -s TERM -- -$0 2> /dev/null
i=0
while kill -s 0 -- -$0 2> /dev/null && [ $i -lt $1 ]; do sleep 1; i=$((i + 1)); done
kill -s KILL -- -$0 2> /dev/null
"""


@contextmanager
def group(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], grace: float = GRACE, log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command as leader of its own process group; when the block ends, nothing of the group is left.

    Its output goes to ``log``, or else to the pipe ``stdout`` of what is yielded.
    """
    with ExitStack() as files:
        output = files.enter_context(log.open("wb")) if log else subprocess.PIPE
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, str(process.pid), str(math.ceil(grace))],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            try:
                end_group(process, grace)
            finally:
                watchdog.kill()
                watchdog.wait()
                for pipe in (watchdog.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()


def end_group(process: subprocess.Popen[bytes], grace: float) -> None:
    """End what is left of a group: SIGTERM, up to ``grace`` seconds, and always a last SIGKILL."""
    try:
        _signal(process.pid, signal.SIGTERM)
        _await_end(process, grace)
    finally:
        _signal(process.pid, signal.SIGKILL)
        process.wait()
        _await_end(process, KILLED)


def _await_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and _alive(process):
        time.sleep(0.02)


def _alive(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the leader, so that it does not count as a member
    return bool(members(process.pid))


def members(pgid: int) -> list[int]:
    """Process ids of the living members of a process group (zombies do not count)."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def _signal(pgid: int, number: signal.Signals) -> None:
    # Members are asked for first: the number of a group without members may already belong to somebody else.
    if members(pgid):
        with suppress(ProcessLookupError):
            os.killpg(pgid, number)
