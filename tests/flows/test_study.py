"""The study as a flow: which runs it is made of, and (slow) two real arms at a time, resumed, reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.states import Completed, State

from balcap.params import ParamsError, read_params
from balcap.study.arms import ARMS, chosen
from balcap.study.data import read_study
from flows import _dvc, study_gather, study_plan
from flows import study as study_flow
from flows._worktree import worktree
from flows.study_gather import check_kept, gather
from flows.study_plan import ArmRun, Start, plan_runs, version
from tests.flows.helpers import sh

PROJECT = Path(__file__).parents[2]


def test_arms_share_pictures_and_warm_starts() -> None:
    runs = plan_runs(PROJECT, chosen("all"), 3)
    assert len({run.name for run in runs}) == len(runs) == 3 * len(ARMS)
    assert {run.start for run in runs} == {
        Start(recipe, seed) for recipe in ("ablation-full", "ablation-hard-full") for seed in (0, 1)
    }
    for run in runs:
        assert run.start.seed == run.seed % 2 and run.start.recipe.startswith("ablation-hard") == (
            run.arm.base != "base"
        )
        assert run.seeds == {"warmstart.seed": run.seed % 2, "train.seed": run.seed}
        assert run.start.seeds == {"warmstart.seed": run.seed % 2}
    assert plan_runs(PROJECT, chosen("paper"), 1) == runs[:9]


def test_a_run_is_called_after_all_that_decides_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = read_params(PROJECT / "recipes/ablation-full.yaml")
    stages = [stage.name for stage in _dvc.plan(PROJECT, ["evaluate"])]
    shared = stages[: stages.index("warmstart") + 1]

    def names(params: dict[str, Any]) -> tuple[str, str]:
        return version(PROJECT, params, shared), version(PROJECT, params, stages)

    before = names(raw)
    assert names(raw | {"runtime": raw["runtime"] | {"workers": 7}, "register": {}}) == before
    other = names(raw | {"train": raw["train"] | {"steps": 1}})
    assert other[0] == before[0] and other[1] != before[1]
    assert names(raw | {"prepare": raw["prepare"] | {"shard_size": 7}})[0] != before[0]
    assert names(raw | {"runtime": raw["runtime"] | {"threads": 2}})[0] != before[0]
    installed = study_plan.installed
    with monkeypatch.context() as newer:
        newer.setattr(study_plan, "installed", lambda name: "99" if name == "trl" else installed(name))
        assert names(raw)[0] != before[0]

    content = study_plan._content
    monkeypatch.setattr(
        study_plan, "_content", lambda path: "changed" if path.name == "advantages" else content(path)
    )  # fmt: skip
    assert names(raw)[0] == before[0] and names(raw)[1] != before[1]


def test_a_refused_recipe_is_named_as_its_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_params
    monkeypatch.setattr(
        study_plan, "read_params", lambda path: read(path) | ({"train": {}} if path.stem == "ablation-grpo" else {})
    )
    with pytest.raises(ParamsError, match=r"^recipes/ablation-grpo\.yaml: train"):
        plan_runs(PROJECT, chosen("paper")[:2], 1)


def round_of(monkeypatch: pytest.MonkeyPatch, folder: Path, stopped: bool, **programs: str) -> State[Any]:
    """One round of runs that are small programs, two at a time."""
    monkeypatch.setenv("BALCAP_WORK", str(folder))
    commands = [study_flow.Command(folder, name, (sys.executable, "-c", text)) for name, text in programs.items()]
    stop = threading.Event()
    if stopped:
        stop.set()

    @flow(task_runner=study_flow._RUNNER)
    def rounds() -> State[Any]:
        return study_flow._round(commands, stop, None) or Completed(message="all")

    found: State[Any] = rounds(return_state=True)
    return found


def test_a_run_that_fails_ends_no_other_and_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = "import sys; print('why it fails'); sys.exit(3)"
    good = "from pathlib import Path; Path('made').touch()"
    state = round_of(monkeypatch, tmp_path, False, bad=bad, worse=bad, good=good)
    log = tmp_path / "study/bad.log"
    assert state.is_failed() and f"bad: exit status 3; {log}\nwhy it fails" in str(state.message)
    assert "worse: exit status 3" in str(state.message) and "good" not in str(state.message)
    assert (tmp_path / "made").exists() and log.read_text() == "why it fails\n"
    assert round_of(monkeypatch, tmp_path, False, good=good).is_completed()


def test_a_stopped_study_begins_no_more_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = round_of(monkeypatch, tmp_path, True, one="from pathlib import Path; Path('made').touch()")
    assert state.is_cancelled() and state.message == "one: not begun" and not (tmp_path / "made").exists()


def test_two_studies_do_not_run_at_once(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ArmRun(ARMS["full"], 0, Start("ablation-full", 0), "ablation-full-s0-0")
    monkeypatch.setattr(study_flow, "plan_runs", lambda *_: [run])
    monkeypatch.setattr(study_flow, "SHARED", "train")
    with worktree(repo, "study-ablation-full-w0"):
        state: Any = study_flow.study(repo, "paper", 1, Path("results"), return_state=True)
    assert state.is_failed() and "a study is in progress" in state.message


def test_worktrees_hold_new_code_and_an_edit_while_they_are_made_is_refused(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo / "rooms/new.py").write_text("NEW = 1\n")
    seen: list[str] = []

    def plan(root: Path, *_: Any) -> list[ArmRun]:
        seen.append((root / "rooms/new.py").read_text())
        if len(seen) == 1:  # somebody saves a file when the names are made and the worktrees are not
            (repo / "rooms/new.py").write_text("NEW = 2\n")
        return [ArmRun(ARMS["full"], 0, Start("ablation-full", 0), f"ablation-full-s0-{hash(seen[-1])}")]

    monkeypatch.setattr(study_flow, "plan_runs", plan)
    monkeypatch.setattr(study_flow, "SHARED", "train")
    state: Any = study_flow.study(repo, "paper", 1, Path("results"), return_state=True)
    assert seen == ["NEW = 1\n", "NEW = 2\n"]
    assert state.is_failed() and "differ from the plan" in state.message
    assert not [path for path in (repo / ".runs").iterdir() if path.is_dir()]


def test_results_stay_when_others_cannot_be_gathered(repo: Path) -> None:
    kept = repo / "results/data/scores.parquet"
    picture = repo / "results/pictures/a.png"
    for path in (kept, picture):
        path.parent.mkdir(parents=True)
        path.write_text("kept")
    sh("git", "update-ref", "refs/exps/ab/cdef/ablation-full-s0-0", "HEAD", cwd=repo)  # an experiment without results
    run = ArmRun(ARMS["full"], 0, Start("ablation-full", 0), "ablation-full-s0-0")
    with pytest.raises(_dvc.DvcFault, match=r"or `dvc exp remove ablation-full-s0-0` and run the study again"):
        gather(repo, [run], Path("results"), "balcap study ablations")
    assert kept.read_text() == picture.read_text() == "kept"


def planned(monkeypatch: pytest.MonkeyPatch, *names: str, there: tuple[str, ...]) -> list[str]:
    """A plan of one seed of these arms, of which ``there`` are experiments; the arms that a study gathers from it."""
    runs = [ArmRun(ARMS[name], 0, Start("ablation-full", 0), f"ablation-{name}-s0-0") for name in names]
    gathered: list[str] = []
    monkeypatch.setattr(study_flow, "plan_runs", lambda *_: runs)
    monkeypatch.setattr(_dvc, "experiments", lambda _, name: [name] if name.split("-", 1)[1][:-5] in there else [])
    monkeypatch.setattr(study_flow, "gather", lambda _, runs, *rest: gathered.extend(run.arm.name for run in runs))
    monkeypatch.setattr(study_flow, "read_study", lambda _: None)
    monkeypatch.setattr(study_flow, "write_report", lambda *_: None)
    return gathered


def test_finished_arms_of_the_other_group_stay_in_the_report(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = planned(monkeypatch, "full", "grpo", "soft", "rvpo", there=("full", "grpo", "rvpo"))
    state: Any = study_flow.study(repo, "paper", 1, Path("results"), return_state=True)
    assert state.is_completed() and gathered == ["full", "grpo", "rvpo"]


def test_no_results_are_lost_that_git_does_not_hold(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gathered = planned(monkeypatch, "full", "rvpo", there=("full",))
    kept = repo / "results/data/runs.json"
    kept.parent.mkdir(parents=True)
    held = {"full, seed 0": "a", "full, seed 3": "b", "rvpo, seed 0": "c"}
    kept.write_text(json.dumps({"commands": [], "experiments": held}))
    state: Any = study_flow.study(repo, "paper", 1, Path("results"), return_state=True)
    assert state.is_failed() and gathered == []
    assert "results/data holds results that would be lost, of full, rvpo: " in state.message
    assert "Commit results" in state.message
    sh("git", "add", "results", cwd=repo)
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Results", cwd=repo)
    run = ArmRun(ARMS["full"], 0, Start("ablation-full", 0), "ablation-full-s0-0")
    check_kept(repo, [run], Path("results"))
    assert "leaves out full, rvpo; git keeps" in capsys.readouterr().out


def test_the_commands_before_are_kept(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_gather, "_collect", lambda *_: None)
    run = ArmRun(ARMS["full"], 0, Start("ablation-full", 0), "ablation-full-s0-0")
    for command in ("one", "two", "one"):
        gather(repo, [run], Path("results"), command)
    found = json.loads((repo / "results/data/runs.json").read_text())
    assert found == {"commands": ["one", "two"], "experiments": {"full, seed 0": run.name}}
    gather(repo, [replace(run, arm=ARMS["rvpo"])], Path("results"), "three")
    assert json.loads((repo / "results/data/runs.json").read_text())["commands"] == ["three"]


GRPO = {"name": "grpo", "scale": "group", "ddof": 1, "eps": 1e-4, "rank_unmasked": False}


def small_recipes(root: Path) -> None:
    """Two arms of the smallest size, committed in a clone."""
    for name in ("full", "grpo"):
        raw = read_params(root / "recipes/smoke.yaml")
        raw["recipe"] = f"ablation-{name}"
        if name == "grpo":
            raw["train"]["advantage"] = GRPO
        (root / f"recipes/ablation-{name}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--all", "-m", "Small arms", cwd=root)


TWO_ARMS = """
import sys
from balcap.study import arms
arms._ALL = arms._ALL[:2]
from flows.cli import app
app(sys.argv[1:])
"""


def balcap(root: Path, *words: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "BALCAP_"))}
    env |= {"DVC_SITE_CACHE_DIR": str(root.parent / "dvc"), "PYTHONPATH": "."}
    done = subprocess.run(
        [sys.executable, "-c", TWO_ARMS, *words], cwd=root, env=env, capture_output=True, text=True, timeout=3000
    )
    logs = [path.read_text()[-2000:] for path in (root / ".work/study").glob("*.log")]
    assert done.returncode == 0, "\n".join([done.stdout, done.stderr, *logs])
    return done.stdout


@pytest.mark.slow
def test_two_arms_are_run_at_a_time_once_and_reported(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True, timeout=300)
    small_recipes(root)
    before = sh("git", "status", "--porcelain", cwd=root)
    said = balcap(root, "study", "ablations", "--seeds", "1")
    names = [run.name for run in plan_runs(root, chosen("paper")[:2], 1)]
    assert "study: 0 of 2 runs are there" in said
    assert all(_dvc.experiments(root, name) for name in [*names, "ablation-full-data", "ablation-full-w0"])
    assert f"{names[0]}: running" in said.split("▸")[0] and f"{names[1]}: running" in said.split("▸")[0]  # side by side
    for name in names:  # what the arms share was made once, and each arm had the rest to do
        log = (root / f".work/study/{name}.log").read_text()
        ran = [line for line in log.splitlines() if "Running stage" in line]
        assert [line.split("'")[1] for line in ran] == ["train", "evaluate"], log
        assert "warmstart: Cached (nothing it depends on changed)" in log
    assert not [path for path in (root / ".runs").iterdir() if path.is_dir()]

    folder = root / "docs/results/ablations"
    found = read_study(folder / "data")
    assert found.arms() == ["base", "full", "grpo"] and found.pictures("full") == 8
    assert len(found.curves["grpo", 0]["precision"]) == 4 and found.runs["experiments"]["grpo, seed 0"] == names[1]
    assert len(list((folder / "pictures").glob("*.png"))) == 3
    text = (folder / "README.md").read_text()
    assert "balcap study ablations --arms paper --seeds 1" in text and "| **inconclusive** |" in text
    assert sh("git", "status", "--porcelain", "--", ".", ":!docs/results", cwd=root) == before

    first = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    again = balcap(root, "study", "ablations", "--seeds", "1")
    assert "study: 2 of 2 runs are there" in again and ": running" not in again
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    (folder / "README.md").unlink()
    balcap(root, "study", "report")
    assert (folder / "README.md").read_bytes() == first["README.md"]
    assert json.loads(first["runs.json"])["commands"]


def test_without_results_the_report_says_what_to_run(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "study", "report"], cwd=repo, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1 and "no results yet; `balcap study ablations` makes them" in done.stderr
