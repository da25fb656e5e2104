"""A training that its alarm pauses: how the run ends, what is kept of it, and that it goes on as the same run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from balcap.mlflow_store import connect, tracking_uri
from flows import _dvc, _paused
from flows._worktree import carry, link, marks, worktree
from flows.cli import app
from flows.request import RunRequest
from steps._stage import PAUSED
from tests.flows.helpers import dvc, edit, sh
from tests.flows.test_pipeline import artifact, no_worktree, task_runs

PROJECT = Path(__file__).parents[2]
DVC_YAML = """
stages:
  prepare:
    cmd: python -m steps.prepare
    deps: [steps/prepare.py, inputs]
    params: [prepare]
    outs: [data/images, data/references.parquet, data/questions.parquet, models/base]
  train:
    cmd: python -m steps.train
    deps: [steps/train.py, data/images, data/references.parquet, data/questions.parquet, models/base]
    params: [train]
    outs: [models/policy, reports/train/samples.parquet]
    metrics:
      - reports/train/summary.json: {cache: false}
    plots:
      - reports/train/curves.csv: {cache: false, x: step}
    meta: {retries: 1, retry_delay: 0, timeout: 600}
  evaluate:
    cmd: cp models/policy/config.json reports/evaluated.json
    deps: [models/policy]
    outs: [reports/evaluated.json]
"""
PREPARE = """
import shutil
from pathlib import Path
for name in ("data", "models"):
    shutil.copytree(Path("inputs") / name, name, dirs_exist_ok=True)
"""
DEAD = {"limit": 0.5, "action": "pause"}
"""The untrained captioner says nothing that the judge could tell apart."""


def parameters() -> dict[str, Any]:
    import train_world as world

    params: dict[str, Any] = yaml.safe_load((PROJECT / "recipes/smoke.yaml").read_text())
    params["train"] = {**world.SETTINGS, "alarms": {"window": 2, "when": {"dead": DEAD}}}
    return params


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose stage `train` is the project's own, and the working directory."""
    import train_world as world

    from balcap.workspace import main_checkout

    root = tmp_path / "training"
    shutil.copytree(PROJECT / "steps", root / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "steps/prepare.py").write_text(PREPARE)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text(yaml.safe_dump(parameters(), sort_keys=False))
    (root / ".gitignore").write_text("__pycache__/\n/.work/\n/.runs/\n/.prefect/\n/mlruns/\n")
    (root / ".dvcignore").write_text("__pycache__\n")
    world.write_inputs(root / "inputs")
    sh("git", "init", "--quiet", "--initial-branch", "main", cwd=root)
    dvc("init", "--quiet", cwd=root)
    sh("git", "add", ".", cwd=root)
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Begin", cwd=root)
    monkeypatch.chdir(root)
    main_checkout.cache_clear()
    return root


def undisturbed(root: Path, folder: Path) -> str:
    """DVC's hash of the captioner that the same training gives without alarms."""
    import torch
    import train_world as world

    from balcap.hashing import dir_md5
    from balcap.judge import make_judge
    from balcap.params import load_params
    from balcap.policy.store import save_policy
    from balcap.records_io import read_references, read_samples
    from balcap.rewards import needed
    from balcap.training.run import train

    params, threads = load_params(root / "params.yaml"), torch.get_num_threads()
    free = params.train.model_copy(update={"alarms": world.settings().alarms})
    judge = make_judge(free.judge, "train.judge", params.runtime, free.judge_deadline, needed(free.reward_weights))
    torch.set_num_threads(params.runtime.threads)
    try:
        result = train(
            free, root / "inputs/models/base", read_samples(root / "inputs/data/images"),
            read_references(root / "inputs/data/references.parquet"), {}, folder / "work", world.Tracked(), judge,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    save_policy(result.policy, folder / "policy")
    return dir_md5(folder / "policy")


def parent(name: str) -> Any:
    """The MLflow run of a flow run."""
    client = connect(tracking_uri(None))
    everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
    (found,) = client.search_runs(everywhere, f"attributes.run_name = '{name}'")
    return found


def test_an_alarm_pauses_a_run_which_is_resumed_as_the_same_run(
    training: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    expected = undisturbed(training, tmp_path / "undisturbed")
    before = sh("git", "status", "--porcelain", cwd=training), (training / "params.yaml").read_text()
    state = run(name="night", overrides=["train.samples_every=3"])
    assert (state.type.value, state.name) == ("CANCELLED", "Paused"), state.message
    alarm, look, further = state.message.splitlines()
    assert alarm.startswith("train: alarm dead at step 2: ") and "(limit 50.0%); means of 2 steps" in alarm
    assert "MLflow run night" in look and "/paused.json" in look and further == "go on: balcap resume night"
    tasks = task_runs(state.state_details.flow_run_id)
    assert {name: task.state.name for name, task in tasks.items()} == {"prepare": "Completed", "train": "Paused"}
    assert tasks["train"].run_count == 1, "a pause is not retried"
    assert "## train: Paused" in artifact("stage-train")
    assert no_worktree(training) and _dvc.experiments(training, "night") == []
    assert (parent("night").info.status, parent("night").data.tags["balcap.state"]) == ("KILLED", "paused")
    assert (sh("git", "status", "--porcelain", cwd=training), (training / "params.yaml").read_text()) == before

    # Its author goes on with something else meanwhile.
    edit(training / "params.yaml", "steps: 4", "steps: 5")
    (training / "steps/train.py").write_text("raise SystemExit('in the making')\n")
    refused = run(name="night")
    assert refused.is_failed() and "`balcap resume night` goes on with it" in refused.message

    resumed = run(name="night", resume=True)
    assert resumed.is_completed(), resumed.message
    result = resumed.result()
    assert result.stages["prepare"][0] == "Cached" and result.stages["train"][0] == "Completed"
    outs = yaml.safe_load(result.lock)["stages"]["train"]["outs"]
    assert next(out["md5"] for out in outs if out["path"] == "models/policy") == expected
    (ref,) = _dvc.experiments(training, "night")
    kept = yaml.safe_load(sh("git", "show", f"{ref}:params.yaml", cwd=training))["train"]
    assert (kept["steps"], kept["samples_every"]) == (4, 3), "as it was asked then"
    assert (parent("night").info.status, parent("night").data.tags["balcap.state"]) == ("FINISHED", "finished")
    assert _paused.names(training) == [] and no_worktree(training)


def test_a_paused_run_has_its_own_files_whatever_changes_in_the_checkout(done: Path) -> None:
    (done / "rooms/new.py").write_text("NEW = 1\n")  # code in the making, which git does not know yet
    edit(done / "inputs/a.txt", "a", "changed")
    stages, asked = _dvc.plan(done), RunRequest.model_validate({"name": "night", "targets": ["train"]})
    with worktree(done, "night") as tree:
        extra, before = carry(tree, stages), marks(done, stages)
        edit(tree.root / "params.yaml", "recipe: embedded", "recipe: night")
        _paused.keep(
            done, "night", root=tree.root, baseline=tree.baseline, origin=tree.tree,
            extra=["params.yaml", "dvc.lock", *extra], asked=asked.model_dump_json(exclude_unset=True), marks=before,
            finished=["prepare"],
        )  # fmt: skip
        began = tree
    (done / "rooms/new.py").unlink()
    edit(done / "inputs/a.txt", "changed", "again")
    sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-am", "Go on", cwd=done)
    paused = _paused.recall(done, "night")
    assert RunRequest.model_validate_json(paused.asked) == asked and paused.marks == before
    assert paused.finished == {"prepare"}
    assert "recipe: night" in paused.params
    with worktree(done, "night", paused) as tree:
        link(tree, stages)
        assert (tree.baseline, tree.tree) == (began.baseline, began.tree)
        assert (tree.root / "rooms/new.py").read_text() == "NEW = 1\n"
        assert (tree.root / "inputs/a.txt").read_text() == "changed"
        assert (tree.root / "dvc.lock").exists()
    _paused.forget(done, "night")
    with pytest.raises(_paused.NotPaused, match="no run called night is paused; paused are: none"):
        _paused.recall(done, "night")


@pytest.fixture
def pausing(done: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The small pipeline, whose training pauses until somebody resumes it."""
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("PAUSES", "1")
    return done


def test_what_was_forced_and_finished_is_not_repeated(
    pausing: Path, run: Callable[..., Any], executed: Callable[[], list[str]]
) -> None:
    assert run(name="night", force=True).name == "Paused"
    assert executed() == ["prepare", "train"]
    resumed = run(name="night", resume=True)
    assert resumed.is_completed(), resumed.message
    assert executed() == ["train", "evaluate"]
    assert resumed.result().stages["prepare"] == ("Cached", "nothing it depends on changed")
    assert resumed.result().stages["evaluate"] == ("Completed", "ran because it was forced")


def test_a_run_that_takes_the_name_of_a_paused_one_takes_its_place_though_it_fails(
    pausing: Path, run: Callable[..., Any]
) -> None:
    assert run(name="night", force=True, targets=["train"]).name == "Paused"
    assert run(name="night", overrides=["train.seed=12.5"], force=True).is_failed()
    assert _paused.names(pausing) == ["night"], "one that never began takes nothing"
    failed = run(name="night", overrides=["train.seed=13"], force=True, targets=["train"])
    assert failed.is_failed() and "nothing to learn from" in failed.message
    assert _paused.names(pausing) == []
    assert "no run called night is paused" in run(name="night", resume=True).message


def test_the_command_line(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import local

    def paused(request: RunRequest, checkout: Path) -> None:
        raise local.RunPaused("train: alarm dead\ngo on: balcap resume night")

    monkeypatch.setattr(local, "execute", paused)
    said = CliRunner().invoke(app, ["run", "--name", "night"])
    assert said.exit_code == PAUSED == 75 and "paused: train: alarm dead\ngo on: balcap resume night" in said.output
    assert CliRunner().invoke(app, ["resume"]).output == "no run is paused\n"
    refused = CliRunner().invoke(app, ["resume", "day"])
    assert refused.exit_code == 1 and "no run called day is paused" in refused.output


def test_resume_takes_a_name_and_nothing_else() -> None:
    for wishes in ({}, {"name": "night", "recipe": "other"}, {"name": "night", "overrides": ["train.seed=1"]}):
        with pytest.raises(ValueError, match="takes the name of a paused run and nothing else"):
            RunRequest.model_validate({**wishes, "resume": True})
