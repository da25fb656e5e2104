"""A git worktree for one run: ``.runs/NAME`` = HEAD plus the tracked uncommitted changes, removed whatever happens.

It shares the checkout's DVC cache. ``dvc.lock`` and outputs that DVC does not cache travel in, tracked by git or not;
inputs that exist in the checkout but not in git are linked at the same relative path (untracked files inside a tracked
folder are copied: they are code in the making, and belong to the experiment).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from balcap.files import Busy, atomic_path, locked, remove
from balcap.hashing import content_md5
from balcap.workspace import main_checkout
from flows import _dvc
from flows._git import GitFault, git, snapshot, untracked
from flows._paused import Paused

IGNORE = ".dvcignore"
LOCK_TIMEOUT = 600.0
"""Seconds to wait for another run that makes or removes a worktree, or saves an experiment."""


class NameTaken(ValueError):
    """A run or an experiment of this name exists already."""


@dataclass(frozen=True)
class Worktree:
    """One run's checkout and what it came from."""

    root: Path
    """Top folder of the worktree."""
    origin: Path
    """Top folder of the checkout that the run was started in."""
    baseline: str
    """Commit that both stand on."""
    tree: str
    """Git's tree of the origin's tracked files when the run started."""


def runs_folder(checkout: Path) -> Path:
    """Where the worktrees of a repository lie; ignored by git."""
    folder = main_checkout(checkout) / ".runs"
    folder.mkdir(exist_ok=True)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    return folder


@contextmanager
def exclusive(checkout: Path) -> Iterator[None]:
    """Hold the lock of everything that changes refs or worktrees which all runs of a repository share."""
    with locked(runs_folder(checkout) / ".lock", LOCK_TIMEOUT, "the repository's list of runs"):
        yield


@contextmanager
def worktree(checkout: Path, name: str, paused: Paused | None = None) -> Iterator[Worktree]:
    """A worktree called ``name``, from ``checkout`` or as the ``paused`` run left it; raises :class:`NameTaken` while
    another run has that name.
    """
    folder = runs_folder(checkout)
    with ExitStack() as alive:  # as long as the lock is held, nobody takes the worktree for an abandoned one
        with exclusive(checkout):
            prune(checkout)
            try:
                alive.enter_context(locked(folder / f"{name}.lock", 0.0))
            except Busy:
                raise NameTaken(f"a run called {name} is in progress; choose another name") from None
        try:
            with exclusive(checkout):
                made = _add(checkout, folder / name, paused)
            yield made
        finally:
            with exclusive(checkout):
                _remove(checkout, folder / name)
                (folder / f"{name}.lock").unlink(missing_ok=True)


def _add(checkout: Path, root: Path, paused: Paused | None) -> Worktree:
    baseline = paused.baseline if paused else git(checkout, "rev-parse", "HEAD")
    tree = paused.origin if paused else snapshot(checkout)
    git(checkout, "worktree", "add", "--quiet", "--detach", "--no-checkout", str(root), baseline)
    git(root, "read-tree", "--reset", "-u", paused.tree if paused else tree)
    local = checkout / ".dvc" / "config.local"
    if local.exists():
        shutil.copyfile(local, root / ".dvc" / "config.local")
    # DVC's own state of a checkout would otherwise stay behind in a system folder, one for each run. What DVC wants in
    # git it adds itself, instead of telling somebody to.
    own = {"site_cache_dir": str(root / ".dvc" / "tmp" / "site"), "autostage": "true"}
    _dvc.configure(root, cache={"dir": str(_dvc.cache_dir(checkout))}, core=own)
    return Worktree(root, checkout, baseline, tree)


def _remove(checkout: Path, root: Path) -> None:
    try:
        git(checkout, "worktree", "remove", "--force", "--force", str(root))
    except GitFault:  # half made, or already gone
        remove(root)
        git(checkout, "worktree", "prune")


def prune(checkout: Path) -> list[str]:
    """Remove the worktrees of runs whose process is gone; names of what was removed. Needs :func:`exclusive`."""
    folder, gone = runs_folder(checkout), []
    for root in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            with locked(folder / f"{root.name}.lock", 0.0):
                _remove(checkout, root)
                (folder / f"{root.name}.lock").unlink()
        except Busy:
            continue
        gone.append(root.name)
    return gone


def carry(tree: Worktree, stages: Sequence[_dvc.Planned]) -> list[str]:
    """Bring in what git does not know; returns the untracked files that belong to the run's experiment."""
    for path in uncached(stages):
        _mirror(tree.origin / path, tree.root / path)
    link(tree, stages)
    extra: list[str] = []
    for path in _inputs(stages):
        if (tree.origin / path).is_dir() and not (tree.root / path).is_symlink():
            for name in untracked(tree.origin, path):
                _mirror(tree.origin / name, tree.root / name)
                extra.append(name)
    _ignore(tree.root / IGNORE, unhashable(tree.root, _inputs(stages)))
    return extra


def link(tree: Worktree, stages: Sequence[_dvc.Planned]) -> None:
    """Make the inputs that git does not hold visible in the worktree."""
    for path in _inputs(stages):
        here, there = tree.origin / path, tree.root / path
        if here.exists() and not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            there.symlink_to(here)


def _inputs(stages: Iterable[_dvc.Planned]) -> list[str]:
    return sorted({path for stage in stages for path in stage.inputs})


def unhashable(root: Path, inputs: Iterable[str]) -> list[str]:
    """What DVC cannot hash in the input folders: pipes, sockets and devices, on which it would wait for ever, and links
    that lead nowhere. ``prepare`` still sees them, and refuses each with its reason.
    """
    folders = (root / path for path in sorted(inputs))
    found = (Path(top) / name for folder in folders for top, _, names in os.walk(folder) for name in names)
    return [path.relative_to(root).as_posix() for path in found if not path.is_file()]


def _ignore(path: Path, names: Sequence[str]) -> None:
    """Add lines to a ``.dvcignore``, once each; they belong to the experiment, which could not be repeated without."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    wanted = ["/" + re.sub(r"([*?[!#\\ ])", r"\\\1", name) for name in names]
    lines = [line for line in wanted if line not in text.splitlines()]
    if lines:
        with atomic_path(path) as tmp:
            tmp.write_text("\n".join([text.rstrip("\n"), *lines, ""]), encoding="utf-8")


def uncached(stages: Iterable[_dvc.Planned]) -> list[str]:
    """Paths of ``dvc.lock`` and of the outputs that DVC's cache does not hold."""
    return ["dvc.lock", *(out.path for stage in stages for out in stage.outs if not out.cached)]


def ignore_files(stages: Iterable[_dvc.Planned]) -> list[str]:
    """The ``.gitignore`` files in which DVC lists the outputs that its cache holds."""
    return sorted({str(Path(out.path).parent / ".gitignore") for stage in stages for out in stage.outs if out.cached})


def _mirror(source: Path, target: Path) -> None:
    """Make ``target`` equal to ``source``: a file, a folder or nothing."""
    if source.is_dir():
        with atomic_path(target) as tmp:
            shutil.copytree(source, tmp)
    elif source.exists():
        with atomic_path(target) as tmp:
            shutil.copy2(source, tmp)
    else:
        remove(target)


def marks(checkout: Path, stages: Sequence[_dvc.Planned]) -> dict[str, str | None]:
    """Content hash of ``dvc.lock``, of each uncached output and of those cached ones that were changed by hand;
    ``None`` for what is not there, or is as ``dvc.lock`` says.
    """
    files = {path: checkout / path for path in [*uncached(stages), *_dvc.edited(checkout, stages)]}
    return {path: content_md5(file) if file.exists() else None for path, file in files.items()}


def changed(tree: Worktree, stages: Sequence[_dvc.Planned], before: Mapping[str, str | None]) -> list[str]:
    """What became different in the checkout since the run started: files, or HEAD."""
    now = git(tree.origin, "rev-parse", "HEAD")
    moved = [] if now == tree.baseline else [f"HEAD ({tree.baseline[:7]} → {now[:7]})"]
    tracked = git(tree.origin, "diff", "--name-only", tree.tree, snapshot(tree.origin)).splitlines()
    after = marks(tree.origin, stages)
    return moved + sorted({*tracked, *(path for path in after if after[path] != before.get(path))})


def apply(tree: Worktree, stages: Sequence[_dvc.Planned]) -> None:
    """Write the run's results into the checkout it was started in: parameters, lock, uncached and cached outputs."""
    for path in [_dvc.PARAMS, IGNORE, *uncached(stages), *ignore_files(stages)]:
        if (tree.root / path).exists() or path in uncached(stages):
            _mirror(tree.root / path, tree.origin / path)
    _dvc.checkout(tree.origin, stages)


def environment(python: str, **extra: str) -> dict[str, str]:
    """The environment of a stage: ``python`` on PATH is this interpreter, nothing is buffered, nobody phones home."""
    path = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", os.defpath)])
    fixed = {"PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}
    return os.environ | fixed | extra
