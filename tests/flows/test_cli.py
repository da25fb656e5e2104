"""The command line as a process: messages, signals, two runs at once, a server of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import pytest

from flows import _dvc
from tests.flows.helpers import alive, edit, sh, wait_until

Executed = Callable[[], list[str]]


def start(root: Path, *args: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *args], cwd=root, env=os.environ | {"COLUMNS": "200"} | env,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def balcap(root: Path, *args: str, **env: str) -> tuple[int, str]:
    process = start(root, *args, **env)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def cpu_seconds(act: Callable[[], object]) -> float:
    """CPU seconds of the children that ``act`` starts and awaits."""
    before = os.times()
    act()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def relative_cost(act: Callable[[], object]) -> float:
    """CPU time of ``act`` in units of importing three light packages: what else the machine does slows both alike."""
    unit = cpu_seconds(lambda: subprocess.run([sys.executable, "-c", "import pydantic, typer, yaml"], check=True))
    return cpu_seconds(act) / unit


def test_help_answers_at_once_and_names_the_commands(repo: Path) -> None:
    # measured 2; importing torch costs 20, Prefect and MLflow 40
    assert min(relative_cost(lambda: balcap(repo, "--help")) for _ in range(3)) < 5
    _, said = balcap(repo, "--help")
    assert all(word in said for word in ("run", "demo", "ui", "recipe", "train.reward_weights.recall=2"))


def test_nothing_heavy_is_imported_for_help(repo: Path) -> None:
    code = "import flows.cli, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(sh(sys.executable, "-c", code, cwd=repo).split())
    assert not loaded & {"torch", "prefect", "dvc", "mlflow", "pandas", "transformers", "great_expectations", "numpy"}


def test_recipes(repo: Path) -> None:
    assert balcap(repo, "recipe", "list") == (0, "other  Another seed\n")
    assert balcap(repo, "recipe", "show", "other")[1] == (repo / "recipes/other.yaml").read_text()
    status, said = balcap(repo, "recipe", "apply", "none")
    assert (status, said) == (1, "error: no recipe 'none'; there are: other\n")
    assert balcap(repo, "recipe", "apply", "other")[0] == 0
    assert (repo / "params.yaml").read_bytes() == (repo / "recipes/other.yaml").read_bytes()
    kept = (repo / "params.yaml").read_text()
    (repo / "params.yaml").write_text(kept + "# mine\n")
    status, said = balcap(repo, "recipe", "apply", "other")
    assert status == 1 and "kept nowhere" not in said and "neither a recipe nor the last commit" in said
    assert (repo / "params.yaml").read_text() == kept + "# mine\n"
    assert balcap(repo, "recipe", "apply", "other", "--force")[0] == 0 and (repo / "params.yaml").read_text() == kept
    (repo / "recipes/bad.yaml").write_text("recipe: bad\n")
    before = (repo / "params.yaml").read_bytes()
    status, said = balcap(repo, "recipe", "apply", "bad")
    assert status == 1 and "recipes/bad.yaml: train is missing" in said
    assert (repo / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-S", "train.sead=1"], "error: -S train.sead = 1: unknown key; allowed here: seed, steps"),
        (["-S", "train.group_size=7"], "error: params.yaml: train: group_size (7) must divide global_batch_size"),
        (["--recipe", "none"], "error: no recipe 'none'; there are: other"),
        (["--name", "not/a/name"], "error: --name 'not/a/name': "),
    ],
)
def test_bad_parameters_fail_at_once(repo: Path, executed: Executed, args: list[str], message: str) -> None:
    status, said = 0, ""

    def attempt() -> None:
        nonlocal status, said
        status, said = balcap(repo, "run", *args)

    # measured 4 to 9, which is 2 seconds at most on an idle machine; Prefect's import alone would double it
    assert min(relative_cost(attempt) for _ in range(2)) < 14
    assert status in (1, 2) and message in said and "Traceback" not in said
    assert executed() == [] and not (repo / ".prefect").exists()


def test_two_first_runs_at_once_with_servers_of_their_own(repo: Path, executed: Executed) -> None:
    env = {"PREFECT_API_URL": "", "PREFECT_HOME": ""}
    both = [start(repo, "run", "prepare", "--name", name, **env) for name in ("first", "twin")]
    for process, name in zip(both, ("first", "twin"), strict=True):
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert f"run {name} is complete" in said
    assert set(executed()) == {"prepare"}
    assert not [p for p in psutil.process_iter(["environ"]) if belongs(p.info["environ"], repo)]

    # The next one finds DVC's results and Prefect's state of both.
    status, said = balcap(repo, "run", "prepare", "--name", "second", **env)
    assert status == 0 and "(restored from the run-cache: it has never run)" in said
    code = (
        "import sqlite3; db = sqlite3.connect('.prefect/prefect.db')\n"
        "for row in db.execute('select r.name, t.name, t.state_type from flow_run r join task_run t "
        "on t.flow_run_id = r.id order by r.name'): print(*row)"
    )
    assert sh(sys.executable, "-c", code, cwd=repo).splitlines() == [
        f"{name} prepare COMPLETED" for name in ("first", "second", "twin")
    ]


def test_the_demo_refuses_another_recipe(repo: Path, executed: Executed) -> None:
    edit(repo / "params.yaml", "recipe: embedded", "recipe: photos")
    code, said = balcap(repo, "demo")
    assert code == 2 and "recipe = photos" in said and "balcap recipe apply embedded" in said
    assert not executed()


def belongs(environ: Mapping[str, str] | None, repo: Path) -> bool:
    """Whether a process was started by a run in this repository."""
    return (environ or {}).get("PREFECT_HOME") == str(repo / ".prefect")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_a_run_leaves_no_process_behind(
    done: Path, prefect: str, tmp_path: Path, number: signal.Signals
) -> None:
    pids = tmp_path / "ran.pids"
    process = start(done, "run", "-S", "train.seed=15", "--name", "stopped", PREFECT_API_URL=prefect)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (130, 128 + number, -number), said
    started = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(alive(pid) for pid in [*started, *(one.pid for one in family)]))
    if number != signal.SIGKILL:  # nobody can tidy up after that one; the next run does
        assert not (done / ".runs/stopped").exists()
        assert "Traceback" not in said
    assert _dvc.experiments(done, "stopped") == []


def test_two_runs_at_once_with_equal_parameters(repo: Path, prefect: str) -> None:
    both = [start(repo, "run", "-S", "train.seed=4", "--name", n, PREFECT_API_URL=prefect) for n in ("one", "two")]
    for process in both:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    locks = [sh("git", "show", f"{_dvc.experiments(repo, name)[0]}:dvc.lock", cwd=repo) for name in ("one", "two")]
    assert locks[0] == locks[1] and "evaluate" in locks[0]
    assert not [path for path in (repo / ".runs").iterdir() if path.is_dir()]
    assert sh("dvc", "exp", "apply", "two", cwd=repo)
    assert _dvc.why(repo, "evaluate") is None


def test_the_display_in_a_terminal_shows_progress() -> None:
    from rich.console import Console

    from flows.display import Board

    console = Console(record=True, width=100, force_terminal=True)
    stage = _dvc.Planned("train", (), "", _dvc.Hints(), (), ())
    with Board(console) as board:
        board.planned("swift-run", [stage])
        board.started("train", "it has never run")
        board.line("train", "▸ train 37/150 steps, 2:13 left; recall 0.41")
        running = console.render_lines(board._draw())
        board.line("train", "warning: alarm dead at step 37: 96.0% [recall]")
        board.line("train", "▸ train 38/150 steps, 2:12 left; recall 0.41")
        board.finished("train", "Cached", "restored\nmore")
        ended = console.render_lines(board._draw())
    text = ["".join(segment.text for line in lines for segment in line) for lines in (running, ended)]
    assert "37/150 steps, 2:13 left  recall 0.41" in text[0] and "Running" in text[0]
    assert "Cached" in text[1] and "restored" in text[1] and "more" not in text[1]
    assert "train: warning: alarm dead at step 37: 96.0% [recall]\n" in console.export_text(), "above the table"


def test_plain_lines_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    from flows.display import Plain

    plain = Plain()
    plain.started("train", "it has never run")
    plain.line("train", "hello")
    plain.finished("train", "Failed", "exit status 1: error\ntail")
    assert capsys.readouterr().out == (
        "train: running, because it has never run\ntrain | hello\ntrain: Failed in 0:00 (exit status 1: error)\n"
    )


def test_the_pages_are_those_of_the_store_that_runs_use(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from flows.ui import store

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):  # `connect` sets them; undone after the test
        monkeypatch.setenv(name, "")
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        assert store(repo)[1] == "" and store(repo)[0].startswith("sqlite:///")
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        edit(repo / "params.yaml", "tracking_uri: null", "tracking_uri: http://user:secret@127.0.0.1:9/x")
        assert store(repo)[1] == "http://127.0.0.1:9/x"
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


@pytest.mark.slow
def test_both_pages_are_served_and_end_with_ctrl_c(repo: Path) -> None:
    from flows._server import free_port

    ports = free_port(), free_port()
    process = start(repo, "ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1]))
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    family = psutil.Process(process.pid).children(recursive=True)
    for port in ports:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
            assert page.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/ui-settings", timeout=60) as settings:
        assert f"http://127.0.0.1:{ports[0]}/api" in settings.read().decode()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    wait_until(lambda: not any(alive(one.pid) for one in family))
