"""Nothing half-written under a final name; locks that a dead holder frees."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from balcap.files import Busy, atomic_path, locked, write_json


def test_a_file_appears_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    with atomic_path(path) as tmp:
        tmp.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with atomic_path(folder) as tmp:
        tmp.mkdir()
        (tmp / "a").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(folder) as tmp:
        tmp.mkdir()
        (tmp / "a").write_text("half")
        raise RuntimeError
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_path(tmp_path / "out") as tmp:
            tmp.mkdir()
            (tmp / name).touch()
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["b"]


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": None})
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": 1}


FILL = """
import resource, signal, sys
from balcap.files import atomic_path, write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def weights(tmp):
    import torch; from safetensors.torch import save_file; save_file({"a": torch.zeros(10_000)}, tmp)
def table(tmp):
    import pyarrow as pa, pyarrow.parquet as pq, random
    pq.write_table(pa.table({"a": [random.random() for _ in range(10_000)]}), tmp)
def text(tmp):
    tmp.write_text("x" * 10_000)
try:
    with atomic_path("out") as tmp: globals()[sys.argv[1]](tmp)
except OSError as error:
    print(error.filename, error.strerror)
"""


@pytest.mark.parametrize("what", ["weights", "table", "text"])
def test_no_room_names_the_file_whoever_wrote_it(what: str, tmp_path: Path) -> None:
    """The limit of a file's size stands for a full disk: the same system calls fail, for real."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", FILL, what], cwd=tmp_path, env=env, capture_output=True, timeout=120)
    assert done.stdout.decode() == "out File too large; free some and run again\n", done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_no_room_elsewhere_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(OSError) as inner, atomic_path(tmp_path / "base"), atomic_path(tmp_path / "work/state"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert inner.value.filename == str(tmp_path / "work/state")


HOLD = """
import sys, time
from balcap.files import locked
with locked(sys.argv[1], 5): print("held", flush=True); time.sleep(60)
"""


def test_a_lock_names_its_holder_and_dies_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "x.lock"
    monkeypatch.setattr("balcap.files.NOTICE_SECONDS", 0.0)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=str(holder.pid)), locked(lock, timeout=0.2, what="the well"):
            pass
        assert capsys.readouterr().err == f"waiting: the well is in use by process {holder.pid} (lock {lock})\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(timeout=10)
        with locked(lock, timeout=5):
            assert lock.read_text() == str(os.getpid())
