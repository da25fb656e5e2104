"""Runs in a real MLflow store (SQLite in a temporary folder), written by the real sender process."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

import balcap.tracking
from balcap import workspace
from balcap.hashing import content_md5
from balcap.mlflow_store import connect
from balcap.params import Params, check_params, read_params
from balcap.tracking import ensure_parent, find_producer, finish_parent, stage_run
from balcap.tracking.journal import Journal, orphans

ROOT = Path(__file__).parents[2]
DEADLINE = 240.0


@pytest.fixture
def params() -> Params:
    return check_params(read_params(ROOT / "recipes/embedded.yaml"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout of its own: git repository, the pipeline's graph, a store, a work folder."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"], check=True
    )
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / ".work"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "BALCAP_FLOW_RUN_ID", "BALCAP_FLOW_RUN_URL"):
        monkeypatch.delenv(name, raising=False)
    workspace.main_checkout.cache_clear()
    yield tmp_path
    workspace.main_checkout.cache_clear()


def store(place: Path) -> Any:
    return connect(f"sqlite:///{place}/mlruns/mlflow.db")


def runs(place: Path, name: str) -> list[Any]:
    client = store(place)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments, f"attributes.run_name = '{name}'")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_run_holds_parameters_curves_tables_and_the_hashes_of_its_outputs(
    place: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "bold-kite")
    monkeypatch.setenv("BALCAP_FLOW_RUN_ID", "1234")
    parent = ensure_parent("bold-kite", {"why": "a test"}, params)
    with stage_run("train", params) as run:
        for step in range(3):
            run.log({"reward/precision/mean": step / 2, "reward/recall/mean": float("nan"), "judge/none": None}, step)
            frame = pd.DataFrame({"step": [step] * 2, "picture": [picture(1), picture(2)], "caption": ["a", "<b>"]})
            run.table("samples", frame, images=["picture"])
        (place / "models/policy").mkdir(parents=True)
        (place / "models/policy/a.json").write_text("{}")
        for path in ("reports/train/samples.parquet", "reports/train/summary.json", "reports/train/curves.csv"):
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(path)
        run.artifact(place / "reports/train/curves.csv", "reports")
    client = store(place)
    made = client.get_run(run.run_id)
    assert made.info.status == "FINISHED"
    assert made.info.run_name == "train"
    assert made.data.tags["mlflow.parentRunId"] == parent
    assert made.data.tags["dvc.exp"] == "bold-kite"
    assert made.data.tags["prefect.flow_run_id"] == "1234"
    assert made.data.tags["git.commit"] == subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert made.data.params["train.advantage.name"] == "gdpo"
    assert made.data.params["train.optimizer.betas"] == "[0.9, 0.95]"
    assert not [name for name in made.data.params if not name.startswith("train.")]
    history = client.get_metric_history(run.run_id, "reward/precision/mean")
    assert [(m.step, m.value) for m in history] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert made.data.metrics["reward/recall/mean"] != made.data.metrics["reward/recall/mean"]
    assert "judge/none" not in made.data.metrics

    table = json.loads(Path(client.download_artifacts(run.run_id, "samples.json")).read_text())
    assert table["columns"] == ["step", "picture", "caption"]
    assert [row[0] for row in table["data"]] == [0, 0, 1, 1, 2, 2]
    cells = [row[1] for row in table["data"]]
    assert {cell["type"] for cell in cells} == {"image"}
    files = {Path(client.download_artifacts(run.run_id, cell["filepath"])).read_bytes() for cell in cells}
    assert files == {picture(1), picture(2)}
    assert len(client.list_artifacts(run.run_id, "table_images/samples")) == 2, "each picture is stored once"
    assert json.loads(made.data.tags["mlflow.loggedArtifacts"]) == [{"path": "samples.json", "type": "table"}]
    assert [a.path for a in client.list_artifacts(run.run_id, "reports")] == ["reports/curves.csv"]

    digest = content_md5("models/policy")
    assert digest.endswith(".dir") and made.data.tags["dvc.out/models/policy"] == digest
    assert made.data.tags["dvc.out/reports/train/curves.csv"] == content_md5("reports/train/curves.csv")
    assert find_producer("models/policy", digest, params) == run.run_id
    assert find_producer("models/policy", "0" * 32 + ".dir", params) is None
    assert client.get_run(parent).info.status == "RUNNING", "its flow ends it"
    finish_parent(parent, "FINISHED", params)
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).data.tags["why"] == "a test"
    assert not orphans()


def test_a_failed_stage_is_failed_and_its_error_passes_through(place: Path, params: Params) -> None:
    with pytest.raises(ZeroDivisionError), stage_run("evaluate", params) as run:
        raise ZeroDivisionError("no pictures")
    made = store(place).get_run(run.run_id)
    assert made.info.status == "FAILED"
    assert made.data.tags["error"] == "ZeroDivisionError: no pictures"
    assert "dvc.out/reports/evaluate/metrics.json" not in made.data.tags
    assert [r.info.status for r in runs(place, "workspace")] == ["FAILED"]


STAGE = """
import sys, time
from balcap.params import load_params
from balcap.tracking import stage_run
with stage_run("prepare", load_params(sys.argv[1])) as run:
    for step in range(20):
        run.log({"images": step}, step)
    print("working", flush=True)
    time.sleep(float(sys.argv[2]))
print("done", run.run_id)
"""


def start(seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STAGE, str(ROOT / "recipes/embedded.yaml"), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_stage_is_killed_in_the_store(place: Path, sign: signal.Signals, code: int) -> None:
    process = start(DEADLINE)
    until(lambda: len(runs(place, "prepare")) == 1)
    process.send_signal(sign)
    assert process.wait(20) == code
    until(lambda: runs(place, "prepare")[0].info.status == "KILLED")
    until(lambda: not list((place / ".work/tracking").glob("*.jsonl")))
    assert runs(place, "prepare")[0].data.metrics == {"images": 19.0}
    assert runs(place, "workspace")[0].info.status == "KILLED"


def test_processes_that_start_at_once_on_an_empty_store_share_one_parent(place: Path) -> None:
    processes = [start(0) for _ in range(4)]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 and "done None" not in output
    parents, children = runs(place, "workspace"), runs(place, "prepare")
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert [child.info.status for child in children] == ["FINISHED"] * 4
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parents[0].info.run_id}
    for child in children:
        assert len(store(place).get_metric_history(child.info.run_id, "images")) == 20
    with sqlite3.connect(place / "mlruns/mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_a_missing_store_missed_is_sent_by_the_next_run(place: Path, params: Params) -> None:
    (place / "mlruns").write_text("a file in the place of the folder")
    with stage_run("prepare", params) as run:
        run.log({"images": 7.0}, 3)
        run.table("rejects", pd.DataFrame({"origin": ["a.jpg"]}))
    assert run.run_id is None
    assert len(orphans()) == 1
    (place / "mlruns").unlink()
    with stage_run("validate_images", params):
        pass
    assert not orphans() and not [p for p in (place / ".work/tracking").iterdir() if not p.name.startswith(".")]
    late = runs(place, "prepare")
    assert [r.info.status for r in late] == ["FINISHED"]
    assert late[0].data.metrics == {"images": 7.0}
    assert late[0].info.start_time < runs(place, "validate_images")[0].info.start_time, "when it ran, not when sent"
    assert len(runs(place, "workspace")) == 1


def test_a_locked_store_delays_a_stage_by_the_time_limit_only(
    place: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(place)
    monkeypatch.setattr(balcap.tracking, "FLUSH_SECONDS", 8.0)
    with sqlite3.connect(place / "mlruns/mlflow.db", isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with stage_run("prepare", params) as run:
            run.log({"images": 1.0})
        assert time.monotonic() - began < 8.0 + 30.0
    connection.close()
    assert run.run_id is None and len(orphans()) == 1


def test_an_unreachable_server_delays_nothing_but_the_end(
    place: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):  # set by `connect`, undone after the test
        monkeypatch.setenv(name, "")
    began = time.monotonic()
    with stage_run("prepare", params) as run:
        for step in range(1000):
            run.log({"images": step}, step)
        assert time.monotonic() - began < 20.0
    assert time.monotonic() - began < balcap.tracking.FLUSH_SECONDS + 50.0
    assert "MLflow could not be reached" in capfd.readouterr().err
    kept = [p.read_text() for p in (place / ".work/tracking").glob("*") if p.suffix in (".jsonl", ".log", ".json")]
    assert kept and "secret" not in "".join(kept)
    assert ensure_parent("x", {}, params) is None
    assert "secret" not in capfd.readouterr().err


def test_a_work_folder_that_cannot_be_written_stops_no_stage(
    place: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / ".work").write_text("not a folder")
    with stage_run("prepare", params) as run:
        run.log({"images": 1.0})
        run.table("x", pd.DataFrame({"a": [1]}))
        run.artifact(place / "nothing.txt")
        run.tags({"a": "b"})
        assert run.wait_run_id(5.0) is None
    assert "Not a directory" in capsys.readouterr().err


def test_a_refused_record_does_not_hold_up_the_rest(place: Path, params: Params) -> None:
    with stage_run("prepare", params) as run:
        run.log({"a name with ? in it": 1.0})
        run.log({"images": 2.0})
        run.tags({"x": "y"})
    made = store(place).get_run(run.run_id)
    assert made.info.status == "FINISHED" and made.data.tags["x"] == "y"
    assert not orphans()


def test_a_cut_off_line_is_skipped(place: Path) -> None:
    journal = Journal.create("train")
    journal.write({"op": "start"})
    with journal.path.open("ab") as f:
        f.write(b'{"op": "metr')
    assert [record["op"] for record, _ in journal.read(0)] == ["start"]
    with journal.path.open("ab") as f:
        f.write(b"\n")
    journal.write({"op": "end", "status": "FAILED"})
    assert [record["op"] for record, _ in journal.read(0)] == ["start", "end"]
    assert journal.ended()
    assert Journal.take(journal.path) is None, "locked by its writer"
    journal.close()
    taken = Journal.take(journal.path)
    assert taken is not None
    taken.close()


def test_looking_whether_the_store_is_there_keeps_the_locks_of_open_connections(place: Path) -> None:
    """Else another process that closes the store thinks that it is the last, and takes the log away under us."""
    store(place)
    file = place / "mlruns/mlflow.db"
    ours = sqlite3.connect(file)
    ours.execute("CREATE TABLE kept (x)")
    ours.commit()
    store(place)
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM kept'); c.close()"
    subprocess.run([sys.executable, "-c", program, str(file)], check=True, timeout=DEADLINE)
    assert file.with_name("mlflow.db-wal").exists(), "the log belongs to our connection, too"
    ours.execute("INSERT INTO kept VALUES (1)")
    ours.commit()
    ours.close()
