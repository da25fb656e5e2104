"""A run's worktree: what travels in, what is shared, and that nothing of it stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import _dvc
from flows._git import git
from flows._worktree import NameTaken, apply, carry, changed, exclusive, marks, prune, worktree
from tests.flows.helpers import dvc, edit, sh


def test_uncommitted_changes_travel_as_with_dvc_exp_run(repo: Path) -> None:
    edit(repo / "rooms/room.py", "ROOM = 1", "ROOM = 2")
    (repo / "inputs/b.txt").unlink()
    (repo / "staged.txt").write_text("staged")
    sh("git", "add", "staged.txt", cwd=repo)
    (repo / "loose.txt").write_text("untracked, and no stage needs it")
    before = sh("git", "status", "--porcelain", cwd=repo)
    with worktree(repo, "one") as tree:
        assert tree.root == repo / ".runs/one"
        assert tree.baseline == git(tree.root, "rev-parse", "HEAD") == git(repo, "rev-parse", "HEAD")
        assert (tree.root / "rooms/room.py").read_text() == "ROOM = 2\n"
        assert not (tree.root / "inputs/b.txt").exists()
        assert (tree.root / "staged.txt").read_text() == "staged"
        assert not (tree.root / "loose.txt").exists()
    assert sh("git", "status", "--porcelain", cwd=repo) == before
    assert sh("git", "stash", "list", cwd=repo) == ""


def test_untracked_lock_and_metrics_travel_and_so_does_their_absence(done: Path) -> None:
    stages = _dvc.plan(done)
    with worktree(done, "one") as tree:
        carry(tree, stages)
        assert (tree.root / "dvc.lock").read_bytes() == (done / "dvc.lock").read_bytes()
        assert (tree.root / "reports/train/summary.json").exists()
        _dvc.checkout(tree.root)
        assert [_dvc.why(tree.root, stage.name) for stage in stages] == [None, None, None]
    sh("git", "add", "--force", "dvc.lock", "reports/train/summary.json", cwd=done)
    (done / "dvc.lock").unlink()
    with worktree(done, "two") as tree:
        carry(tree, stages)
        assert not (tree.root / "dvc.lock").exists()


def test_the_cache_is_the_checkouts(done: Path) -> None:
    sh(sys.executable, "-m", "dvc", "remote", "add", "--local", "box", str(done.parent / "box"), cwd=done)
    with worktree(done, "one") as tree:
        assert _dvc.cache_dir(tree.root) == _dvc.cache_dir(done) == done / ".dvc/cache"
        assert "box" in sh(sys.executable, "-m", "dvc", "remote", "list", cwd=tree.root)
        carry(tree, _dvc.plan(done))
        _dvc.checkout(tree.root)
        assert (tree.root / "data/manifest.txt").read_text() == "a.txt\nb.txt\n"


def test_a_clone_without_a_cache_can_be_worked_in(repo: Path) -> None:
    assert not (repo / ".dvc/cache").exists()
    with worktree(repo, "one") as tree:
        _dvc.checkout(tree.root)
        assert _dvc.why(tree.root, "prepare") == "it has never run"


@pytest.mark.parametrize("linked", [False, True])
def test_an_untracked_input_folder_is_linked_at_the_same_place(repo: Path, tmp_path: Path, linked: bool) -> None:
    folder = tmp_path / "elsewhere" if linked else repo / "data/mine"
    folder.mkdir(parents=True)
    (folder / "c.txt").write_text("c")
    if linked:  # what the parameters tell people to do with a folder outside of the checkout
        (repo / "data").mkdir()
        (repo / "data/mine").symlink_to(folder)
    with worktree(repo, "one") as tree:
        _dvc.apply_overrides(tree.root / "params.yaml", ["prepare.path=data/mine"])
        assert carry(tree, _dvc.plan(tree.root)) == []
        assert (tree.root / "data/mine").is_symlink()
        assert (tree.root / "data/mine/c.txt").read_text() == "c"
    assert (folder / "c.txt").read_text() == "c"


def test_what_dvc_cannot_hash_is_left_out_instead_of_waited_for(repo: Path, tmp_path: Path) -> None:
    outside = tmp_path / "pictures"
    outside.mkdir()
    (outside / "a.txt").write_text("a")
    os.mkfifo(outside / "a pipe")
    (outside / "nowhere").symlink_to("/does/not/exist")
    (repo / "data").mkdir()
    (repo / "data/mine").symlink_to(outside)
    with worktree(repo, "one") as tree:
        _dvc.apply_overrides(tree.root / "params.yaml", ["prepare.path=data/mine"])
        stages = _dvc.plan(tree.root)
        carry(tree, stages)
        lines = (tree.root / ".dvcignore").read_text().splitlines()
        assert sorted(lines[-2:]) == ["/data/mine/a\\ pipe", "/data/mine/nowhere"]
        assert "Running stage 'prepare'" in dvc("repro", "--dry", "--single-item", "prepare", cwd=tree.root)
        carry(tree, stages)
        assert (tree.root / ".dvcignore").read_text().splitlines() == lines, "once each"


def test_untracked_code_inside_a_dependency_travels_and_belongs_to_the_experiment(repo: Path) -> None:
    (repo / "rooms/new.py").write_text("NEW = 1\n")
    (repo / "rooms/__pycache__").mkdir()
    (repo / "rooms/__pycache__/x.pyc").write_text("")
    with worktree(repo, "one") as tree:
        assert carry(tree, _dvc.plan(tree.root)) == ["rooms/new.py"]
        assert (tree.root / "rooms/new.py").read_text() == "NEW = 1\n"


def test_nothing_stays_behind_whatever_happens(repo: Path) -> None:
    with pytest.raises(KeyboardInterrupt), worktree(repo, "one") as tree:
        (tree.root / "new-file").write_text("")
        raise KeyboardInterrupt
    assert [path.name for path in (repo / ".runs").iterdir() if not path.name.startswith(".")] == []
    assert len(git(repo, "worktree", "list").splitlines()) == 1
    assert "runs" not in sh("git", "status", "--porcelain", cwd=repo)


def test_a_name_is_taken_while_its_run_lasts(repo: Path) -> None:
    with worktree(repo, "one"):
        with pytest.raises(NameTaken, match="a run called one is in progress"), worktree(repo, "one"):
            pass
        with worktree(repo, "two") as other:
            assert other.root.exists()
        assert (repo / ".runs/one/dvc.yaml").exists()
    with worktree(repo, "one"):
        pass


def test_the_worktree_of_a_killed_run_is_pruned_and_a_living_one_is_not(repo: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from flows._worktree import worktree\n"
        "with worktree(Path.cwd(), 'dead'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo, timeout=60)
    assert (repo / ".runs/dead/dvc.yaml").exists()
    with worktree(repo, "living") as tree:  # pruned on the way in
        assert not (repo / ".runs/dead").exists()
        with exclusive(repo):
            assert prune(repo) == []
        assert tree.root.exists()


def test_results_are_written_back(done: Path) -> None:
    stages = _dvc.plan(done)
    with worktree(done, "one") as tree:
        carry(tree, stages)
        before = marks(done, stages)
        _dvc.apply_overrides(tree.root / "params.yaml", ["train.seed=6"])
        _dvc.checkout(tree.root)
        sh(sys.executable, "-m", "dvc", "repro", cwd=tree.root)
        assert changed(tree, stages, before) == []
        apply(tree, stages)
        lock = (tree.root / "dvc.lock").read_bytes()
    assert (done / "dvc.lock").read_bytes() == lock
    assert (done / "models/policy/weights.txt").read_text() == "6 2"
    assert "seed: 6" in (done / "params.yaml").read_text()
    assert [_dvc.why(done, stage.name) for stage in stages] == [None, None, None]


def test_what_people_keep_in_dvc_themselves_stays_as_it_is(done: Path) -> None:
    (done / "mine").mkdir()
    (done / "mine/a.txt").write_text("a")
    sh(sys.executable, "-m", "dvc", "add", "mine", cwd=done)
    (done / "mine/b.txt").write_text("not added yet")
    stages = _dvc.plan(done)
    with worktree(done, "one") as tree:
        carry(tree, stages)
        sh(sys.executable, "-m", "dvc", "repro", cwd=tree.root)
        apply(tree, stages)
    assert (done / "mine/b.txt").read_text() == "not added yet"


def test_a_cached_output_changed_by_hand_meanwhile_is_named(done: Path) -> None:
    stages = _dvc.plan(done)
    weights = done / "models/policy/weights.txt"
    with worktree(done, "one") as tree:
        before = marks(done, stages)
        assert changed(tree, stages, before) == []
        weights.chmod(0o644)
        weights.write_text("by hand")
        assert changed(tree, stages, before) == ["models/policy"]


def test_every_change_meanwhile_is_named(done: Path) -> None:
    stages = _dvc.plan(done)
    with worktree(done, "one") as tree:
        before = marks(done, stages)
        edit(done / "rooms/room.py", "1", "2")
        edit(done / "reports/train/summary.json", "0.1", "0.2")
        assert changed(tree, stages, before) == ["reports/train/summary.json", "rooms/room.py"]
        sh("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "Change", cwd=done)
        assert any(name.startswith("HEAD (") for name in changed(tree, stages, before))
