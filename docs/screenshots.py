"""Takes the pictures of docs/images again, from the state that ``make demo`` left behind.

    make demo && make screenshots       # Chromium must be on PATH: apt-get install chromium

Starts the two UIs on free ports of loopback, opens the pages in a headless browser, and ends everything.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "images"
SETTLE_MS = 12_000
"""Time for a page to fetch and draw what it shows."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_for(url: str, seconds: float = 120.0) -> None:
    """Return when ``url`` answers; raise ``TimeoutError`` after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"{url} did not answer within {seconds:.0f} s")


@contextmanager
def interfaces() -> Iterator[tuple[str, str]]:
    """`balcap ui` on free ports; yields the addresses of Prefect and MLflow."""
    prefect, mlflow = free_port(), free_port()
    command = ["balcap", "ui", "--prefect-port", str(prefect), "--mlflow-port", str(mlflow)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{prefect}/api/health")
        wait_for(f"http://127.0.0.1:{mlflow}/health")
        yield f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}"
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def latest_flow_run(prefect: str) -> str:
    """Path of the newest completed flow run's page."""
    import asyncio

    os.environ["PREFECT_API_URL"] = f"{prefect}/api"
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    async def newest() -> str:
        async with get_client() as client:
            only = FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}})
            runs = await client.read_flow_runs(flow_run_filter=only, sort=FlowRunSort.START_TIME_DESC, limit=1)
        return f"/runs/flow-run/{runs[0].id}"

    return asyncio.run(newest())


def mlflow_pages(mlflow: str) -> dict[str, str]:
    """Paths of the newest training run's curves and of the registered model's version."""
    from mlflow import MlflowClient

    from balcap.params import load_params

    client = MlflowClient(mlflow)
    name = load_params().register_.name
    version = client.get_model_version_by_alias(name, load_params().register_.alias)
    experiments = [e.experiment_id for e in client.search_experiments()]
    finished = "attributes.run_name = 'train' and attributes.status = 'FINISHED'"
    run = client.search_runs(experiments, finished, max_results=1)[0]
    path = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    return {
        "mlflow-model-version": f"/#/models/{name}/versions/{version.version}",
        "mlflow-run": path + "?workflowType=machine_learning",
        "mlflow-curves": f"{path}/model-metrics?workflowType=machine_learning",
    }


def take(browser: Any, pages: dict[str, str]) -> None:
    """One picture per page, named by its key."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    for name, url in pages.items():
        page.goto(url, timeout=60_000)
        page.wait_for_timeout(SETTLE_MS)  # the pages keep polling, so that the network never falls silent
        page.screenshot(path=OUT / f"{name}.png")
        print(f"docs/images/{name}.png", flush=True)
    browser.close()


def main() -> None:
    """Write docs/images/{prefect-flow-run,mlflow-run,mlflow-curves,mlflow-model-version,report}.png."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("Chromium is not on PATH; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    with interfaces() as (prefect, mlflow):
        pages = {"prefect-flow-run": prefect + latest_flow_run(prefect)}
        pages |= {name: mlflow + path for name, path in mlflow_pages(mlflow).items()}
        pages["report"] = (ROOT / "reports/evaluate/report.html").as_uri()
        with sync_playwright() as playwright:
            take(playwright.chromium.launch(executable_path=browser_path, args=FLAGS), pages)


if __name__ == "__main__":
    main()
