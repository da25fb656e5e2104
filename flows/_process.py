"""Commands in process groups of their own: streamed line by line, and never outliving whoever started them.

A killed `dvc repro` leaves its training job running with the GPU still held, so every exit path (end, failure, timeout,
cancellation, Ctrl-C) ends the whole group: SIGTERM, a grace period, SIGKILL. Should this process itself be killed, a
watchdog that holds the read end of a pipe does the same.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL: time for a training job to write its checkpoint."""
KILLED = 10.0
"""Seconds that the kernel may take to end what was sent SIGKILL."""
TICK = 0.5
"""Seconds between two looks at deadline and cancellation."""
# Reads until its parent is gone, then ends the group whose number it was given.
WATCHDOG = """
cat > /dev/null
kill -s TERM -- -$0 2> /dev/null
i=0
while kill -s 0 -- -$0 2> /dev/null && [ $i -lt 30 ]; do sleep 1; i=$((i + 1)); done
kill -s KILL -- -$0 2> /dev/null
"""


class TimedOut(TimeoutError):
    """The command ran longer than its stage allows."""


class Stopped(RuntimeError):
    """Somebody asked for the command to be stopped; the message says who."""


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    timeout: float | None = None,
    stopped: Callable[[], str | None] = lambda: None,
    grace: float = GRACE,
) -> int:
    """Run to the end, hand each line of stdout and stderr to ``on_line``, and return the exit status.

    Raises :class:`TimedOut` after ``timeout`` seconds and :class:`Stopped` when ``stopped`` gives a reason.
    """
    with group(command, cwd=cwd, env=env, grace=grace) as process:
        deadline = time.monotonic() + timeout if timeout else float("inf")
        for line in _lines(process):
            if line:
                on_line(line)
            if time.monotonic() > deadline:
                raise TimedOut(f"ran longer than its timeout of {timeout:g} s and was ended")
            if reason := stopped():
                raise Stopped(reason)
        return process.wait()  # has ended


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
            ["/bin/sh", "-c", WATCHDOG, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
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


def _lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines as they arrive, and an empty one at least every :data:`TICK` seconds. A progress bar's ``\\r`` ends a line.

    Stops when the leader has ended, although somebody may still hold the pipe; one that closes its output may go on.
    """
    assert process.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(TICK):
                data = os.read(process.stdout.fileno(), 1 << 16)
                *whole, rest = re.split(rb"[\r\n]+", rest + data)
                yield from (_text(line) for line in whole)
                if not data:
                    break
            elif process.poll() is not None:
                break
            yield ""
    yield _text(rest)
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(TICK)
        yield ""


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").rstrip()
