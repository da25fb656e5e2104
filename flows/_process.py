"""Commands in process groups of their own: streamed line by line, with a deadline, and stopped on request.

A killed `dvc repro` leaves its training job running with the GPU still held, so every exit path (end, failure, timeout,
cancellation, Ctrl-C) ends the whole group (``balcap.processes``).
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from balcap.processes import GRACE, group

TICK = 0.5
"""Seconds between two looks at deadline and cancellation."""


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
    with group(command, cwd=cwd, env=env, grace=grace) as process, _patient(grace, on_line):
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
def _patient(grace: float, on_line: Callable[[str], None]) -> Iterator[None]:
    """Say that a long grace begins, when the block is left before the command has ended."""
    try:
        yield
    except BaseException:
        if grace > GRACE:
            on_line(f"warning: asked to end, with {grace:g} s to keep what it has done; Ctrl-C now kills it")
        raise


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
