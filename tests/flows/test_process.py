"""Commands in process groups: output arrives by line, and no exit path leaves a process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from balcap.processes import GRACE, group
from flows import _process
from tests.flows.helpers import alive, wait_until

# Starts a child that ignores SIGTERM, says both numbers, and waits.
STUBBORN = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(1000)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print(os.getpid(), child.pid, flush=True)
"""


def python(code: str, **options: object) -> tuple[int, list[str]]:
    lines: list[str] = []
    command = [sys.executable, "-c", code]
    status = _process.run(command, cwd=Path.cwd(), env=os.environ, on_line=lines.append, **options)  # type: ignore[arg-type]
    return status, lines


def test_lines_of_both_streams_and_the_status_arrive() -> None:
    status, lines = python("import sys; print('one'); sys.stdout.flush(); print('two', file=sys.stderr); sys.exit(3)")
    assert (status, lines) == (3, ["one", "two"])


def test_progress_bars_bad_bytes_and_a_missing_newline_are_lines_too() -> None:
    _, lines = python(r"import sys; sys.stdout.buffer.write(b'10%\r20%\r\n\xff\nend')")
    assert lines == ["10%", "20%", "\ufffd", "end"]


def test_lines_arrive_while_the_command_runs() -> None:
    seen: list[str] = []
    with pytest.raises(_process.Stopped, match="saw it"):
        _process.run(
            [sys.executable, "-uc", "print('now'); import time; time.sleep(1000)"],
            cwd=Path.cwd(), env=os.environ, on_line=seen.append, stopped=lambda: "saw it" if seen else None,
        )  # fmt: skip


def test_a_timeout_ends_the_group_with_a_child_that_ignores_sigterm() -> None:
    lines: list[str] = []
    with pytest.raises(_process.TimedOut, match="timeout of 8 s"):
        _process.run(
            [sys.executable, "-c", STUBBORN + "time.sleep(1000)"],
            cwd=Path.cwd(), env=os.environ, on_line=lines.append, timeout=8, grace=0.5,
        )  # fmt: skip
    assert len(lines) == 1 and not any(alive(int(pid)) for pid in lines[0].split())


def test_run_ends_after_its_timeout() -> None:
    began = time.monotonic()
    with pytest.raises(_process.TimedOut, match=r"timeout of 0\.5 s"):
        python("import time; time.sleep(1000)", timeout=0.5)
    assert time.monotonic() - began < 20


def test_a_command_that_closes_its_output_is_still_watched() -> None:
    quiet = "import os, time; os.close(1); os.close(2); time.sleep(1000)"
    with pytest.raises(_process.TimedOut, match=r"timeout of 1 s"):
        python(quiet, timeout=1)


def test_a_leader_that_ends_takes_its_children_along() -> None:
    status, lines = python(STUBBORN, grace=0.5)  # the child still holds the pipe when the leader is gone
    assert status == 0
    assert not any(alive(int(pid)) for pid in lines[0].split())


def test_the_group_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys
from pathlib import Path
from flows import _process
from tests.flows.helpers import alive, wait_until
_process.run([sys.executable, "-uc", {"import os, time; print(os.getpid()); time.sleep(1000)"!r}],
    cwd=Path({str(tmp_path)!r}), env=os.environ, on_line=lambda line: print(line, flush=True))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(pid))


def test_the_watchdog_gives_the_grace_that_was_asked_for(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid()); time.sleep(1000)"
    )
    code = f"""
import os, sys
from pathlib import Path
from flows import _process
_process.run([sys.executable, "-uc", {stubborn!r}],
    cwd=Path({str(tmp_path)!r}), env=os.environ, on_line=lambda line: print(line, flush=True), grace=0.5)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not alive(pid), seconds=GRACE - 5)


def test_a_job_keeps_what_it_has_done_though_its_leader_ends_at_once(tmp_path: Path) -> None:
    # As `dvc repro` ends at SIGTERM, while the stage that it started writes a checkpoint.
    job = (
        "import signal, sys, time; from pathlib import Path\n"
        "def save(*_): time.sleep(2); Path('checkpoint').touch(); sys.exit()\n"
        "signal.signal(signal.SIGTERM, save); print('ready', flush=True); time.sleep(1000)"
    )
    leader = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {job!r}])"
    lines: list[str] = []
    with pytest.raises(_process.Stopped):
        _process.run(
            [sys.executable, "-c", leader], cwd=tmp_path, env=os.environ, on_line=lines.append,
            stopped=lambda: "ready" if lines else None, grace=GRACE,
        )  # fmt: skip
    assert (tmp_path / "checkpoint").exists()


def test_a_long_grace_is_told_when_it_begins() -> None:
    for grace, told in (
        (GRACE, []),
        (45.0, ["warning: asked to end, with 45 s to keep what it has done; Ctrl-C now kills it"]),
    ):
        lines: list[str] = []
        with pytest.raises(_process.Stopped, match="somebody"):
            _process.run(
                ["sleep", "1000"], cwd=Path.cwd(), env=os.environ, on_line=lines.append,
                stopped=lambda: "somebody", grace=grace,
            )  # fmt: skip
        assert lines == told


def test_a_second_interruption_ends_a_long_grace(tmp_path: Path) -> None:
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _process.run(
            [sys.executable, "-c", STUBBORN + "time.sleep(1000)"],
            cwd=Path.cwd(), env=os.environ, on_line=on_line, grace=600.0,
        )  # fmt: skip
    assert "warning" in lines[1] and time.monotonic() - began < 300
    assert not any(alive(int(pid)) for pid in lines[0].split())


def test_a_log_takes_the_output(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with group(["echo", "hello"], cwd=tmp_path, env=os.environ, log=log) as process:
        process.wait(timeout=30)
    assert log.read_text() == "hello\n"


def test_interrupting_the_reader_ends_the_group() -> None:
    def interrupt(line: str) -> None:
        pids.append(int(line))
        os.kill(os.getpid(), signal.SIGINT)

    pids: list[int] = []
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    with pytest.raises(KeyboardInterrupt):
        _process.run([sys.executable, "-c", code], cwd=Path.cwd(), env=os.environ, on_line=interrupt)
    assert len(pids) == 1 and not alive(pids[0])
