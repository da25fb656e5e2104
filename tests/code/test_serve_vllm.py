"""``balcap serve judge`` around a program that stands for vLLM: what it is started with, how it ends, what is said.

The real vLLM is in tests/serving. The program here answers /health, or dies, and tells its command line in the log.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

import pytest
from serve_world import free_port, served, started

from balcap.serve import vllm
from balcap.serve.vllm import ServeError, Setup, command, program
from tests.flows.helpers import alive, wait_until

HEALTHY = """#!{python}
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("pids", os.getpid(), child.pid, *sys.argv[1:], flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
DEAD = """#!{python}
import sys
print("loading")
sys.exit("RuntimeError: not enough memory")
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "small-judge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def stand_in(folder: Path, code: str) -> Path:
    path = folder / "vllm"
    path.write_text(code.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_says_where_it_serves_and_leaves_nothing_behind(tmp_path: Path, model: Path, number: int) -> None:
    stub = str(stand_in(tmp_path, HEALTHY))
    with served(model, "--vllm", stub, "--", "--data-parallel-size", "8", BALCAP_WORK=str(tmp_path)) as server:
        process = server.process
        assert f'small-judge: {{urls: ["{server.url}"]' in server.said
        (log,) = (tmp_path / "serve").iterdir()
        words = log.read_text().splitlines()[0].split()
        assert words[3:5] == ["serve", str(model)] and words[-2:] == ["--data-parallel-size", "8"]
        process.send_signal(number)
        assert process.wait(timeout=60) == (0 if number != signal.SIGKILL else -number)
        wait_until(lambda: not any(alive(int(pid)) for pid in words[1:3]))


def test_a_server_that_dies_at_start_is_quoted(tmp_path: Path, model: Path) -> None:
    port, stub = free_port(), str(stand_in(tmp_path, DEAD))
    with started(model, port, "--vllm", stub, BALCAP_WORK=str(tmp_path)) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ended with status 1" in said and "not enough memory" in said and f"judge-{port}.log" in said


def test_a_server_that_is_late_is_ended(tmp_path: Path, model: Path) -> None:
    stub = str(stand_in(tmp_path, "#!{python}\nimport time; time.sleep(1000)\n"))
    with started(model, free_port(), "--vllm", stub, "--deadline", "1", BALCAP_WORK=str(tmp_path)) as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "not healthy after 1 s (--deadline)" in said


def test_what_is_missing_is_named_before_anything_starts(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServeError, match=r"nothing: no model there; --model wants"):
        command(Setup(tmp_path / "nothing", "x", free_port(), 1024), gpu=False)
    with pytest.raises(ServeError, match="no program there; `make vllm`"):
        program(tmp_path / "nothing")
    monkeypatch.setattr(vllm, "main_checkout", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match=r"make vllm.*pip install vllm==.*--vllm"):
        program(None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match=r"in use; --port"):
            command(Setup(model, "x", taken.getsockname()[1], 1024), gpu=False)


def test_only_a_machine_without_a_gpu_gets_the_options_for_one(tmp_path: Path, model: Path) -> None:
    setup = Setup(model, "x", free_port(), 1024, stand_in(tmp_path, HEALTHY))
    assert "--enforce-eager" in command(setup, gpu=False)
    assert "--enforce-eager" not in command(setup, gpu=True)


def test_the_environments_program_goes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / ".venv-vllm/bin"
    own.mkdir(parents=True)
    monkeypatch.setattr(vllm, "main_checkout", lambda: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    other = stand_in(tmp_path, HEALTHY)
    assert program(None) == other
    assert program(stand_in(own, HEALTHY)) == program(None) == own / "vllm"
