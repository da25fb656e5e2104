"""What the flow assumes of DVC: its words, its order, its overrides, its hashes. Fails when an upgrade moves them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from balcap.hashing import content_md5
from balcap.params import ParamsError
from flows import _dvc
from tests.flows.helpers import dvc, edit, sh

PROJECT = Path(__file__).parents[2]


def test_the_words_that_tell_a_run_from_a_restored_result(repo: Path) -> None:
    first = dvc("repro", "--single-item", "prepare", cwd=repo)
    assert _dvc.RUNNING.format("prepare") in first.splitlines()
    (repo / "dvc.lock").unlink()
    shutil.rmtree(repo / "data")
    second = dvc("repro", "--single-item", "prepare", cwd=repo)
    assert _dvc.RESTORED.format("prepare") in second.splitlines()
    assert _dvc.RUNNING.format("prepare") not in second


def test_the_words_that_tell_a_failure(done: Path) -> None:
    edit(done / "params.yaml", "  seed: 0\n  steps:", "  seed: 13\n  steps:")
    failed = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "--single-item", "train"], cwd=done, capture_output=True, text=True
    )
    said = (failed.stdout + failed.stderr).splitlines()
    assert failed.returncode != 0
    assert _dvc.verdict(said) == "exit status 1: error: data/images holds nothing to learn from"
    noise = [said[0], "error: no endpoint answers", "client_session: <object>", *said[-1:]]
    assert _dvc.verdict(noise) == "exit status 1: error: no endpoint answers", "not what is printed behind"
    assert _dvc.verdict(["ERROR: unexpected"]) == "ERROR: unexpected"
    assert _dvc.verdict([]) == "no output"


def test_plan_is_the_graph_in_the_order_of_dvc_repro(repo: Path) -> None:
    stages = {stage.name: stage for stage in _dvc.plan(repo)}
    assert list(stages) == ["prepare", "train", "evaluate"]
    assert [stages[name].needs for name in stages] == [(), ("prepare",), ("prepare", "train")]
    assert stages["prepare"].inputs == ("steps/prepare.py", "rooms", "inputs")
    assert stages["evaluate"].inputs == ("steps/evaluate.py",)
    train = stages["train"]
    assert (train.desc, train.hints.retries, train.hints.timeout, train.hints.gpus) == ("Learns nothing", 1, 60, 1)
    assert {out.path: (out.cached, out.metric) for out in train.outs} == {
        "models/policy": (True, False),
        "reports/train/summary.json": (False, True),
        "reports/train/curves.csv": (False, False),
    }


def test_plan_of_a_target_is_what_it_needs(repo: Path) -> None:
    assert [stage.name for stage in _dvc.plan(repo, ["train"])] == ["prepare", "train"]


@pytest.mark.parametrize("recipe", sorted((PROJECT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_dvc_reads_every_recipe_as_we_do(recipe: Path, tmp_path: Path) -> None:
    copy = shutil.copy(recipe, tmp_path / "params.yaml")
    _dvc.apply_overrides(copy, ["recipe=other"])  # DVC's parser refuses plain texts that PyYAML takes: [http://...]
    assert yaml.safe_load(copy.read_text()) == yaml.safe_load(recipe.read_text()) | {"recipe": "other"}


def test_an_unknown_stage_and_an_unknown_hint_are_named(repo: Path) -> None:
    with pytest.raises(_dvc.DvcFault, match="nowhere"):
        _dvc.plan(repo, ["nowhere"])
    edit(repo / "dvc.yaml", "retries: 1", "retrys: 1")
    with pytest.raises(_dvc.DvcFault, match=r"train\.meta\.retrys"):
        _dvc.plan(repo)


def test_why_is_a_sentence(done: Path) -> None:
    assert _dvc.why(done, "train") is None
    _dvc.apply_overrides(done / "params.yaml", ["train.reward_weights.recall=2", "train.seed=4"])
    assert _dvc.why(done, "train") == "train.reward_weights.recall 1.0 → 2; train.seed 0 → 4"
    (done / "rooms/room.py").write_text("ROOM = 2\n")
    shutil.rmtree(done / "data/images")
    assert _dvc.why(done, "prepare") == "rooms changed; data/images is missing"
    edit(done / "dvc.yaml", "steps.evaluate", "steps.evaluate --fast")
    assert _dvc.why(done, "evaluate") == "its command changed"
    (done / "dvc.lock").unlink()
    assert _dvc.why(done, "evaluate") == "it has never run"


def test_outputs_have_the_hashes_that_the_library_computes(done: Path) -> None:
    outs = _dvc.stored(done, "prepare") + _dvc.stored(done, "train")
    assert {out.path for out in outs} >= {"data/images", "data/manifest.txt", "reports/train/summary.json"}
    for out in outs:
        assert out.md5 == content_md5(done / out.path)
    assert [(out.size, out.files) for out in outs if out.path == "data/images"] == [(2, 2)]


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.seed=4"],
        ["train.optimizer.betas=[0.8,0.99]", "evaluate.temperature=0.5"],
        ["+train.new.key=abc"],
        ["~train.seed"],
        ["params.yaml:train.seed=9"],
    ],
)
def test_overrides_do_what_dvc_exp_run_does(repo: Path, tmp_path: Path, overrides: list[str]) -> None:
    from dvc.repo import Repo
    from dvc.utils.cli_parse import to_path_overrides

    ours = tmp_path / "params.yaml"
    shutil.copyfile(repo / "params.yaml", ours)
    _dvc.apply_overrides(ours, overrides)
    with Repo(str(repo)) as opened:  # what `dvc exp run -S` calls with its options
        opened.experiments.workspace_queue._update_params(to_path_overrides(overrides))
    assert ours.read_bytes() == (repo / "params.yaml").read_bytes()
    assert ours.read_text() != sh("git", "show", "HEAD:params.yaml", cwd=repo)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.sead=1", r"train\.sead = 1: unknown key; allowed here: seed, steps"),
        ("trein.seed=1", r"trein\.seed = 1: unknown key; allowed here: recipe, prepare"),
        ("train.seed=1,2", "a sweep is several runs"),
        ("train.seed", "train.seed"),
        ("train.seed=[1", "train.seed"),
        ("other.yaml:train.seed=1", r"only params\.yaml"),
    ],
)
def test_faulty_overrides_are_explained(repo: Path, override: str, message: str) -> None:
    before = (repo / "params.yaml").read_bytes()
    with pytest.raises(_dvc.OverrideError, match=message):
        _dvc.apply_overrides(repo / "params.yaml", [override])
    assert (repo / "params.yaml").read_bytes() == before


def test_a_request_is_checked_as_a_whole(repo: Path) -> None:
    from flows.request import RunRequest, check

    params = check(repo, RunRequest(recipe="other", overrides=("train.reward_weights.recall=3.0",)))
    assert (params.recipe, params.train.seed, params.train.reward_weights["recall"]) == ("other", 5, 3.0)
    with pytest.raises(ParamsError, match=r"no recipe 'none'; there are: other"):
        check(repo, RunRequest(recipe="none"))
    with pytest.raises(ParamsError, match=r"params\.yaml: train: group_size \(7\) must divide"):
        check(repo, RunRequest(overrides=("train.group_size=7",)))


def test_an_experiment_holds_results_that_git_did_not_know(done: Path) -> None:
    paths = ["dvc.lock", "reports/train/summary.json", "rooms/extra.py"]
    (done / "rooms/extra.py").write_text("")
    _dvc.save_experiment(done, "kept", targets=[], force=False, untracked=paths)
    (ref,) = _dvc.experiments(done, "kept")
    files = sh("git", "ls-tree", "-r", "--name-only", ref, cwd=done).splitlines()
    assert set(paths) <= set(files)
    assert _dvc.experiments(done, "other") == []


def test_differences_are_against_the_commit(done: Path) -> None:
    _dvc.apply_overrides(done / "params.yaml", ["train.seed=4"])
    found = _dvc.differences(done)
    assert found["params"] == {"train.seed": (0, 4)}
    assert found["metrics"]["reports/evaluate/summary.json: nested.n"] == (None, 3)


def test_checkout_brings_back_what_the_lock_says_and_leaves_out_what_the_cache_lacks(done: Path) -> None:
    shutil.rmtree(done / "data")
    (done / "models/policy/weights.txt").write_text("spoilt")
    _dvc.checkout(done)
    assert (done / "models/policy/weights.txt").read_text() == "0 2"
    assert (done / "data/manifest.txt").exists()
    shutil.rmtree(done / ".dvc/cache")
    shutil.rmtree(done / "data")
    _dvc.checkout(done)
    assert not (done / "data/manifest.txt").exists()


def test_dvc_yaml_of_the_project_can_be_planned() -> None:
    root = Path(__file__).parents[2]
    graph = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    assert {stage.name for stage in _dvc.plan(root)} == set(graph)
