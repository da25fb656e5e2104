"""Ranks under a stage: how each end of one is told, and that none of them is ever left over.

The ranks here are small programs that only import what every rank does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from runtime_world import ALONE, runtime
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from balcap.training.data import TrainingError
from balcap.training.launch import RankFailed, _explained, alone, start
from steps import train
from steps._stage import StageError

RANK = """
import os, signal, sys, time
from pathlib import Path
from balcap.training.data import TrainingError
from balcap.training.ranks import run_rank
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
def body():
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    BODY
run_rank(body, (TrainingError,))
"""
STAGE = """
import signal, sys
sys.path[:0] = [TESTS]
from runtime_world import ALONE, runtime
from balcap.training.launch import start
settings = {**ALONE, "nodes": NODES, "processes": 2 // NODES}
if DEAF:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
start(runtime(launch=settings), [sys.argv[1], sys.argv[2]])
"""
TESTS = Path(__file__).parents[1]
PATIENCE = 120.0


def program(folder: Path, body: str) -> list[str]:
    """Arguments of a rank that does ``body``."""
    file = folder / "rank.py"
    file.write_text(RANK.replace("BODY", body))
    return [str(file), str(folder)]


def two(**changes: Any) -> Any:
    return runtime(launch={**ALONE, "processes": 2}, **changes)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def pids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("*.pid") if path.read_text()]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def gone(folder: Path) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids(folder))


def stage(folder: Path, body: str, nodes: int = 1, deaf: bool = False, **env: str) -> subprocess.Popen[str]:
    """A process of its own that starts the ranks, as stage `train` does; ``deaf`` to SIGTERM as a process 1 is."""
    text = STAGE.replace("TESTS", repr(str(TESTS))).replace("NODES", str(nodes)).replace("DEAF", str(deaf))
    return subprocess.Popen(
        [sys.executable, "-c", text, *program(folder, body)],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def test_only_one_process_without_deepspeed_needs_no_others() -> None:
    assert alone(runtime())
    for changes in ({"nodes": 2}, {"processes": 2}, {"deepspeed": "zero2"}):
        assert not alone(runtime(launch={**ALONE, **changes}))
    assert not alone(runtime(train_python=".venv-gpu/bin/python"))


def test_what_a_rank_explains_is_told_as_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    body = "if rank == 1: raise TrainingError('train.frozen: no such thing')\n    time.sleep(60)"
    with pytest.raises(TrainingError, match=r"^train\.frozen: no such thing$"):
        start(two(), program(tmp_path, body))
    assert gone(tmp_path)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_a_rank_does_not_explain_comes_with_its_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(RankFailed, match=r"^rank 1 of 2 \(process \d+\): ZeroDivisionError: .*; finished steps are"):
        start(two(), program(tmp_path, "time.sleep(60 if rank == 0 else 0)\n    1 / 0"))
    assert capfd.readouterr().err.count("Traceback") == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_killed_rank_is_named_though_another_complains_first(tmp_path: Path) -> None:
    body = (
        "if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    while not (other := folder / '1.pid').exists() or not other.read_text(): time.sleep(0.01)\n"
        "    while open(f'/proc/{other.read_text()}/stat').read().split()[2] != 'Z': time.sleep(0.01)\n"
        "    raise RuntimeError('Connection closed by peer')"
    )  # the agent asks ten times a second: both ends fall between two looks, or it sees the kill first
    with pytest.raises(RankFailed, match=r"^rank 1 of 2 \(process \d+\) was ended by SIGKILL \(.*memory"):
        start(two(), program(tmp_path, body))


def failure(exitcode: int, said: str = "", folder: Path | None = None) -> ProcessFailure:
    """How a process ended, as torch's agent tells it; ``said``: its exception, left in a file."""
    file = str(folder / f"{said}.json") if folder else ""
    if folder:
        extra = {"py_callstack": "Traceback", "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": said, "extraInfo": extra}}))
    return ProcessFailure(local_rank=0, pid=7, exitcode=exitcode, error_file=file)


def test_an_abort_follows_from_whatever_else_went_wrong(tmp_path: Path) -> None:
    abort, kill, term = failure(-signal.SIGABRT), failure(-signal.SIGKILL), failure(-signal.SIGTERM)
    error = failure(1, "ZeroDivisionError: by zero", tmp_path)
    told = failure(3, "TrainingError: train.frozen: no such thing", tmp_path)
    assert "rank 1 of 4 (process 7) was ended by SIGKILL" in str(_explained({0: abort, 1: kill, 2: abort}, 4))
    assert "rank 2 of 4 (process 7): ZeroDivisionError: by zero; " in str(_explained({0: term, 1: abort, 2: error}, 4))
    assert str(_explained({0: abort, 1: told}, 4)) == "train.frozen: no such thing"
    found = str(_explained({0: term, 1: abort, 3: abort}, 4))
    assert found.startswith("rank 1 of 4 (process 7) was ended by SIGABRT (from NCCL: it gave up waiting for another")
    assert "runtime.launch.collective_timeout" in found and "run again" in found


def test_a_rank_that_cannot_write_down_why_it_failed_still_ends(tmp_path: Path) -> None:
    body = (  # a part is written, as on a full disk
        "import resource\n    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "    if rank == 1: raise TrainingError('train.frozen: no such thing')\n    time.sleep(60)"
    )
    process = stage(tmp_path, body)
    output, _ = process.communicate(timeout=PATIENCE)
    assert "\nTrainingError: train.frozen: no such thing\n" in f"\n{output}"
    assert "RankFailed: rank 1 of 2 (process " in output and "ended with code 3; finished steps are kept" in output
    assert gone(tmp_path)


def test_deepspeed_waits_no_longer_for_a_rank_than_everybody_else(tmp_path: Path) -> None:
    body = (
        "from balcap.params.runtime import Launch\n    from balcap.training.ranks import join\n"
        "    join(Launch(nodes=1, processes=2, deepspeed='zero2', offload='none', collective_timeout=10.0))\n"
        "    import torch\n    from deepspeed import comm\n    from deepspeed.utils import groups\n"
        "    ours, number = groups._get_data_parallel_group(), torch.ones(1)\n"
        "    assert comm.get_world_size(ours) == 2 and comm.get_global_rank(ours, 1) == 1\n"
        "    comm.all_reduce(number, group=ours)\n"
        "    assert number == 2\n"
        "    time.sleep(0 if rank == 0 else 600)\n"
        "    comm.all_reduce(number, group=ours)"
    )
    with pytest.raises(RankFailed, match=r"^rank 0 of 2 .*Timed out waiting.*\(it gave up waiting for another rank"):
        start(two(), program(tmp_path, body))
    assert gone(tmp_path)


def test_sigterm_reaches_the_ranks_and_their_explanation_the_stage(tmp_path: Path) -> None:
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(TrainingError('checkpoint-4 is kept')))\n"
        "    (folder / f'{rank}.ready').touch()\n    time.sleep(60)"
    )
    process = stage(tmp_path, body)
    until(lambda: len(list(tmp_path.glob("*.ready"))) == 2)
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE)
    assert output.strip().endswith("TrainingError: checkpoint-4 is kept") and process.returncode == 1
    assert gone(tmp_path)


def test_a_stage_that_no_signal_ends_fails_when_its_ranks_had_nothing_to_say(tmp_path: Path) -> None:
    process = stage(tmp_path, "time.sleep(600)", deaf=True)
    until(lambda: len(pids(tmp_path)) == 2)
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE)
    assert "RankFailed: ended by SIGTERM, and no rank had anything to keep" in output and process.returncode == 1
    assert gone(tmp_path)


def test_no_rank_outlives_a_killed_stage(tmp_path: Path) -> None:
    process = stage(tmp_path, "time.sleep(600)")
    until(lambda: len(pids(tmp_path)) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    until(lambda: gone(tmp_path))


def test_two_machines_form_one_group(tmp_path: Path) -> None:
    body = (
        "from balcap.params.runtime import Launch\n    from balcap.training.ranks import is_main, join\n"
        "    join(Launch(nodes=2, processes=1, deepspeed='none', offload='none', collective_timeout=120.0))\n"
        "    import torch\n    both = torch.tensor([rank + 1.0])\n    torch.distributed.all_reduce(both)\n"
        "    print(f'rank {rank} main {is_main()} sum {both.item()}')"
    )
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    machines = [stage(tmp_path, body, nodes=2, **where, NODE_RANK=str(i)) for i in range(2)]
    said = [machine.communicate(timeout=2 * PATIENCE)[0] for machine in machines]
    assert said[0].splitlines()[-1] == "rank 0 main True sum 3.0", said
    assert said[1].splitlines()[-1] == "rank 1 main False sum 3.0", said


def test_what_is_missing_is_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"runtime\.train_python: .*/nowhere/python is no program"):
        start(two(train_python="nowhere/python"), [])
    for name in ("MASTER_ADDR", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(TrainingError, match=r"runtime\.launch\.nodes = 2: MASTER_ADDR, NODE_RANK must be set"):
        start(runtime(launch={**ALONE, "nodes": 2}), [])


@pytest.mark.parametrize("number", ["1", "-1", "2", "one"])
def test_a_machine_too_many_is_refused(number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", number)
    with pytest.raises(TrainingError, match=rf"^NODE_RANK is {number}, and runtime\.launch\.nodes 1: .*from 0 to 0"):
        start(two(), program(tmp_path, "pass"))
    assert not pids(tmp_path)


def test_stage_train_refuses_a_machine_too_many_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(TESTS.parent / "recipes/smoke.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(StageError, match=r"^NODE_RANK is 1, and runtime\.launch\.nodes 1: "):
        train.body()
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_machine_that_does_not_come_is_told_with_where_it_was_waited_for(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": str(number)}.items():
        monkeypatch.setenv(name, value)
    settings = {**ALONE, "nodes": 2, "collective_timeout": 3.0}
    told = rf"^127\.0\.0\.1:{port}: not all 2 machines met within 3 s \(this one has NODE_RANK {number}\): .+; run the"
    with pytest.raises(TrainingError, match=told):
        start(runtime(launch=settings), program(tmp_path, "pass"))
    assert not pids(tmp_path)


def test_a_port_that_is_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(
            TrainingError, match=rf"^127\.0\.0\.1:{port}: not all 2 machines met .*address already in use"
        ):
            start(runtime(launch={**ALONE, "nodes": 2, "collective_timeout": 3.0}), program(tmp_path, "pass"))
