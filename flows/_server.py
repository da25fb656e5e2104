"""A Prefect server for the time of one run, over the state that all runs share (``.prefect/`` of the main checkout).

With ``PREFECT_API_URL`` set, the server that it names is used instead. Prefect could start a temporary server by
itself, but that one dies of the Ctrl-C that is meant for the run, before the run could report its end, and stays behind
when the run is killed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from balcap.files import locked
from balcap.processes import group
from balcap.workspace import main_checkout

START_SECONDS = 300.0
STOP_SECONDS = 10.0
UI_PORT = 4200
"""Where ``balcap ui`` shows runs; links in tags and artifacts lead there."""
# No dependency phones home; the terminal shows stages, not log records.
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}


class ServerFault(RuntimeError):
    """The temporary server did not come up; the message holds what it said."""


def home(checkout: Path) -> Path:
    """Folder of Prefect's state, shared by all worktrees of a repository."""
    return main_checkout(checkout) / ".prefect"


@contextmanager
def prefect_server(checkout: Path) -> Iterator[None]:
    """Set Prefect up in this process (before it is imported) and have a server while the block runs."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    folder = home(checkout)
    folder.mkdir(exist_ok=True)
    os.environ["PREFECT_HOME"] = str(folder)
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{UI_PORT}")
    port = free_port()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    log = folder / f"server-{port}.log"
    with ExitStack() as stack:
        stack.callback(log.unlink, missing_ok=True)
        stack.callback(os.environ.pop, "PREFECT_API_URL")
        # One at a time: the first start of all creates the database.
        with locked(folder / "start.lock", START_SECONDS, "the start of a Prefect server"):
            env = os.environ | _server_settings()
            server = stack.enter_context(group(_command(port), cwd=folder, env=env, grace=STOP_SECONDS, log=log))
            for module in ("flows.pipeline", "mlflow.tracking"):  # what a run needs takes seconds, as the server does
                import_module(module)
            _wait(server, f"http://127.0.0.1:{port}/api/health", log)
        try:
            yield
        finally:  # of a failed run above all: its last stage's state travels as an event
            _drain()


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(port: int) -> list[str]:
    # As prefect.server.api.server.SubprocessASGIServer starts its own.
    app = "prefect.server.api.server:create_app"
    where = ["--host", "127.0.0.1", "--port", str(port)]
    return [sys.executable, "-m", "uvicorn", "--factory", app, *where, "--log-level", "error", "--lifespan", "on"]


def _server_settings() -> dict[str, str]:
    return {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    raise ServerFault(f"Prefect's server did not start within {START_SECONDS:g} s; it said: {said or 'nothing'}")


def _drain() -> None:
    """Hand over logs and events that are still on their way, while there is a server to take them."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)
    EventsWorker.drain_all(timeout=30)
