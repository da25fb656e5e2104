"""The flow: states, reasons, artifacts, retries, timeouts, cancellation, failure, write-back."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balcap.mlflow_store import connect, tracking_uri
from balcap.tracking import ensure_parent
from flows import _dvc
from flows._worktree import worktree
from flows.events import Watcher, watched_by
from flows.request import RunRequest, check
from tests.flows.helpers import alive, edit, sh, wait_until

Run = Callable[..., Any]
Executed = Callable[[], list[str]]


def task_runs(flow_run_id: Any) -> dict[str, Any]:
    """Task runs of a flow run as the server knows them; their states arrive with a delay."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    found: dict[str, Any] = {}

    def settled() -> bool:
        with get_client(sync_client=True) as client:
            found.update({run.name: run for run in client.read_task_runs(flow_run_filter=wanted)})
        return bool(found) and all(run.state and run.state.is_final() for run in found.values())

    wait_until(settled)
    return found


def artifact(key: str) -> str:
    """Markdown of the newest artifact of a key."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort=ArtifactSort.CREATED_DESC, limit=1
        )
    return str(found[0].data)


def no_worktree(repo: Path) -> bool:
    return not [path for path in (repo / ".runs").iterdir() if path.is_dir()]


def test_a_run_and_the_same_run_again(repo: Path, run: Run, executed: Executed) -> None:
    state = run(name="first", apply=True)
    result = state.result()
    assert executed() == ["prepare", "train", "evaluate"]
    assert result.stages == {
        name: ("Completed", "ran because it has never run") for name in ("prepare", "train", "evaluate")
    }
    tasks = task_runs(state.state_details.flow_run_id)
    assert {name: task.state.name for name, task in tasks.items()} == dict.fromkeys(result.stages, "Completed")
    assert no_worktree(repo)
    assert (repo / "dvc.lock").read_text() == result.lock

    # The experiment of that name, complete.
    (ref,) = _dvc.experiments(repo, "first")
    files = sh("git", "ls-tree", "-r", "--name-only", ref, cwd=repo).splitlines()
    assert {"dvc.lock", "reports/train/summary.json", "reports/evaluate/registration.json", "data/.gitignore"} <= set(
        files
    )

    # What a reader finds in Prefect.
    train = artifact("stage-train")
    assert "## train: Completed" in train and "it has never run" in train and "models/policy" in train
    assert "| `reports/train/summary.json: reward` | – | 0.1 |" in train
    (stored,) = [out for out in _dvc.stored(repo, "train") if out.path == "models/policy"]
    assert stored.md5 in train
    whole = artifact("experiment-diff")
    assert "experiment `first`" in whole and "| evaluate | Completed |" in whole

    again = run()
    assert executed() == []
    assert set(again.result().stages.values()) == {("Cached", "nothing it depends on changed")}
    assert again.result().name != "first"
    tasks = task_runs(again.state_details.flow_run_id)
    assert {task.state.name for task in tasks.values()} == {"Cached"}
    assert {task.state.type.value for task in tasks.values()} == {"COMPLETED"}
    assert "## train: Cached" in artifact("stage-train")


def test_only_what_an_override_concerns_runs_and_the_checkout_stays(done: Path, run: Run, executed: Executed) -> None:
    before = {name: (done / name).read_bytes() for name in ("dvc.lock", "params.yaml", "models/policy/weights.txt")}
    result = run(overrides=["train.reward_weights.recall=2.0"], name="more-recall").result()
    # Training gives the same weights, so that evaluation has nothing to do.
    assert executed() == ["train"]
    assert result.stages["prepare"] == ("Cached", "nothing it depends on changed")
    assert result.stages["train"] == ("Completed", "ran because train.reward_weights.recall 1.0 → 2.0")
    assert result.stages["evaluate"][0] == "Cached"
    assert {name: (done / name).read_bytes() for name in before} == before
    assert "| `reports/train/summary.json: reward` | 0.1 | 0.2 | +0.1 |" in artifact("stage-train")
    assert "| `train.reward_weights.recall` | 1 | 2 | +1 |" in artifact("experiment-diff")
    shown = json.loads(sh("dvc", "exp", "show", "--json", cwd=done))
    assert "more-recall" in json.dumps(shown)

    # The run-cache has the result, although the checkout has it not.
    restored = run(overrides=["train.reward_weights.recall=2.0"]).result()
    assert executed() == []
    assert restored.stages["train"] == (
        "Cached", "restored from the run-cache: train.reward_weights.recall 1.0 → 2.0",
    )  # fmt: skip
    assert restored.lock == result.lock


def test_recipe_then_overrides(repo: Path, run: Run) -> None:
    run(recipe="other", overrides=["train.seed=6"], targets=["train"], apply=True).result()
    assert (repo / "models/policy/weights.txt").read_text() == "6 2"
    assert "recipe: other" in (repo / "params.yaml").read_text()
    assert not (repo / "reports/evaluate/metrics.json").exists()


def test_force_runs_what_has_nothing_to_do(done: Path, run: Run, executed: Executed) -> None:
    result = run(force=True, targets=["prepare"]).result()
    assert executed() == ["prepare"]
    assert result.stages == {"prepare": ("Completed", "ran because it was forced")}


def test_a_failing_stage(done: Path, run: Run, executed: Executed) -> None:
    before = sh("git", "status", "--porcelain", cwd=done), (done / "models/policy/weights.txt").read_bytes()
    state = run(overrides=["train.seed=13"], name="fails", apply=True)
    assert (state.type.value, state.name) == ("FAILED", "Failed")
    assert state.message.startswith("train: exit status 1: error: data/images holds nothing to learn from\n")
    assert executed() == ["train", "train"]  # one retry, as dvc.yaml says
    assert no_worktree(done)
    assert (sh("git", "status", "--porcelain", cwd=done), (done / "models/policy/weights.txt").read_bytes()) == before
    assert _dvc.experiments(done, "fails") == []
    tasks = task_runs(state.state_details.flow_run_id)
    assert {name: task.state.name for name, task in tasks.items()} == {"prepare": "Cached", "train": "Failed"}
    assert tasks["train"].run_count == 2
    assert "nothing to learn from" in artifact("stage-train")


def test_a_retry_can_succeed(done: Path, run: Run, executed: Executed) -> None:
    result = run(overrides=["train.seed=14"]).result()
    assert executed() == ["train", "train", "evaluate"]
    assert result.stages["train"][0] == "Completed"


def test_a_stage_that_runs_too_long_is_ended(done: Path, run: Run, tmp_path: Path) -> None:
    edit(done / "dvc.yaml", "timeout: 60", "timeout: 15, grace: 45")
    edit(done / "dvc.yaml", "retries: 1", "retries: 0")
    told: list[str] = []
    listener = Watcher()
    listener.line = lambda stage, text: told.append(text)  # type: ignore[method-assign]
    with watched_by(listener):
        state = run(overrides=["train.seed=15"])
    assert "with 45 s to keep what it has done" in told[-1]
    assert state.is_failed()
    assert state.message == "train: ran longer than its timeout of 15 s and was ended"
    assert task_runs(state.state_details.flow_run_id)["train"].state.name == "TimedOut"
    pids = [int(pid) for pid in (tmp_path / "ran.pids").read_text().split()]
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)
    assert no_worktree(done)


def test_cancelling_in_prefect_ends_the_stage(
    done: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    from flows import stage

    monkeypatch.setattr(stage, "CANCEL_SECONDS", 0.1)
    pids = tmp_path / "ran.pids"

    class Canceller(Watcher):
        def line(self, stage: str, text: str) -> None:
            threading.Thread(target=cancel).start()

    def cancel() -> None:
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        with get_client(sync_client=True) as client:
            (found,) = [one for one in client.read_flow_runs() if one.name == "to-cancel"]
            client.set_flow_run_state(found.id, Cancelling())

    with watched_by(Canceller()):
        state = run(overrides=["train.seed=15"], name="to-cancel")
    assert state.is_cancelled()
    assert not any(alive(int(pid)) for pid in pids.read_text().split())
    assert no_worktree(done)


def test_results_are_not_written_over_what_changed_meanwhile(done: Path, run: Run) -> None:
    class Author(Watcher):
        def started(self, stage: str, reason: str) -> None:
            (done / "rooms/room.py").write_text("ROOM = 'edited while it ran'\n")

    before = (done / "dvc.lock").read_bytes()
    with watched_by(Author()):
        state = run(overrides=["train.seed=3"], name="late", apply=True)
    assert state.is_failed()
    assert "rooms/room.py" in state.message and "dvc exp apply late" in state.message
    assert (done / "dvc.lock").read_bytes() == before
    assert (done / "models/policy/weights.txt").read_text() == "0 2"
    assert len(_dvc.experiments(done, "late")) == 1


def test_an_untracked_input_folder_is_read_and_recorded(repo: Path, run: Run) -> None:
    (repo / "data/mine").mkdir(parents=True)
    (repo / "data/mine/c.txt").write_text("c")
    run(overrides=["prepare.path=data/mine"], targets=["prepare"], apply=True).result()
    assert (repo / "data/manifest.txt").read_text() == "c.txt\n"
    assert _dvc.why(repo, "prepare") is None
    shutil.rmtree(repo / "data/images")
    assert _dvc.why(repo, "prepare") == "data/images is missing"


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"overrides": ["train.sead=1"]}, "train.sead = 1: unknown key"),
        ({"overrides": ["train.group_size=7"]}, "group_size (7) must divide"),
        ({"recipe": "none"}, "no recipe 'none'"),
        ({"targets": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_work_fails_before_any_stage(
    repo: Path, run: Run, executed: Executed, wishes: dict[str, Any], message: str
) -> None:
    state = run(**wishes)
    assert state.is_failed() and message in state.message
    assert executed() == []
    assert not (repo / ".runs").exists() or no_worktree(repo)


def test_a_name_is_used_once(done: Path, run: Run) -> None:
    assert run(name="same", targets=["prepare"]).is_completed()
    state = run(name="same", targets=["prepare"])
    assert state.is_failed() and "an experiment called same exists" in state.message
    assert run(name="same", targets=["prepare"], force=True).is_completed()


def test_the_name_of_a_living_run_is_refused_and_its_record_left_alone(done: Path, run: Run) -> None:
    with worktree(done, "living"):
        parent = ensure_parent("living", {"prefect.flow_run_id": "its own"}, check(done, RunRequest()))
        state = run(name="living", targets=["prepare"])
        assert state.is_failed() and "living" in state.message
    assert parent is not None
    record = connect(tracking_uri(None)).get_run(parent)
    assert (record.info.status, record.data.tags["prefect.flow_run_id"]) == ("RUNNING", "its own")
