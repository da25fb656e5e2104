"""`balcap serve judge` in a process, as people start it; it never outlives the test."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Served:
    """A server that is healthy, and what was printed until then."""

    process: subprocess.Popen[str]
    url: str
    said: str

    def counter(self, name: str) -> float:
        """One of vLLM's own counters."""
        with urllib.request.urlopen(self.url.replace("/v1", "/metrics"), timeout=30) as answer:
            (found,) = re.findall(rf"^{name}{{.*}} (\S+)$", answer.read().decode(), re.M)
        return float(found)


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(model: Path, port: int, *options: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The command; killed afterwards if it still runs, and what it started with it."""
    command = [sys.executable, "-m", "flows.cli", "serve", "judge", "--model", model, "--port", str(port), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


@contextmanager
def served(model: Path, *options: str, **env: str) -> Iterator[Served]:
    """The command when it says that it is healthy; its own message is the failure when it cannot start."""
    port = free_port()
    with started(model, port, *options, **env) as process:
        said = healthy(process)
        assert "healthy: " in said, said
        yield Served(process, f"http://127.0.0.1:{port}/v1", said)


def healthy(process: subprocess.Popen[str]) -> str:
    """What is printed up to the line for runtime.serving, or to the end."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if "urls:" in line:
            break
    return said
