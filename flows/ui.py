"""``balcap ui``: Prefect's and MLflow's own pages on the loopback interface, over ``.prefect/`` and ``mlruns/``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from balcap.files import locked
from balcap.mlflow_store import SETTINGS as MLFLOW_SETTINGS
from balcap.mlflow_store import connect, tracking_uri
from balcap.params import load_params
from balcap.processes import group
from flows._dvc import PARAMS
from flows._server import SETTINGS, START_SECONDS, ServerFault, home

HOST = "127.0.0.1"
STOP_SECONDS = 10.0


def serve(checkout: Path, prefect_port: int, mlflow_port: int) -> None:
    """Serve both until Ctrl-C, or until one of them ends, which raises ``ServerFault`` with what it said.

    Where runs are tracked by an MLflow server, its address is printed and only Prefect's pages are served.
    """
    folder = home(checkout)
    folder.mkdir(exist_ok=True)
    pages = {"Prefect": (prefect_command(prefect_port), f"http://{HOST}:{prefect_port}", folder / "ui-prefect.log")}
    uri, address = store(checkout)
    if address:
        print(f"{'MLflow':<8} {address} (a server that runs elsewhere)", flush=True)
    else:
        mlflow = mlflow_command(mlflow_port, uri)
        pages["MLflow"] = (mlflow, f"http://{HOST}:{mlflow_port}", folder / "ui-mlflow.log")
    env = os.environ | SETTINGS | MLFLOW_SETTINGS
    env |= {"PREFECT_HOME": str(folder), "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{prefect_port}/api"}
    with ExitStack() as stack:
        servers = {}
        with locked(folder / "start.lock", START_SECONDS, "the start of a Prefect server"):
            for name, (command, _, log) in pages.items():
                servers[name] = stack.enter_context(group(command, cwd=checkout, env=env, grace=STOP_SECONDS, log=log))
            for name, (_, url, log) in pages.items():
                _wait(name, servers[name], url, log)
                print(f"{name:<8} {url}", flush=True)
        print(f"Ctrl-C ends {'both' if len(pages) == 2 else 'it'}", flush=True)
        _watch(servers, {name: log for name, (_, _, log) in pages.items()})


def store(checkout: Path) -> tuple[str, str]:
    """URI of the MLflow store that runs of this checkout use, made if there is none yet; and the address of its pages
    where the store is a server already, without a password, or else nothing.
    """
    path = checkout / PARAMS
    uri = tracking_uri(load_params(path).runtime.tracking_uri if path.exists() else None)
    connect(uri)
    import mlflow

    return uri, mlflow.get_tracking_uri() if uri.startswith(("http://", "https://")) else ""


def prefect_command(port: int) -> list[str]:
    """Prefect's server with its pages."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def mlflow_command(port: int, uri: str) -> list[str]:
    """MLflow's server with its pages."""
    store = ["--backend-store-uri", uri, "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), *store]


def _wait(name: str, server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise ServerFault(_said(name, log))


def _watch(servers: dict[str, subprocess.Popen[bytes]], logs: dict[str, Path]) -> None:
    try:
        while True:
            for name, server in servers.items():
                if server.poll() is not None:
                    raise ServerFault(_said(name, logs[name]))
            time.sleep(0.5)
    except KeyboardInterrupt:
        return


def _said(name: str, log: Path) -> str:
    tail: Sequence[str] = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-8:]
    return f"{name}'s server ended (log: {log}): " + "\n".join(tail)
