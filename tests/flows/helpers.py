"""What the tests of the flow share: commands in a repository, waiting for conditions, edits."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def sh(*command: str, cwd: Path, check: bool = True) -> str:
    """Run a command in a repository and return what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def dvc(*args: str, cwd: Path) -> str:
    """Run DVC in a repository."""
    return sh(sys.executable, "-m", "dvc", *args, cwd=cwd)


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for a condition; fails when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text in a file that must hold it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
