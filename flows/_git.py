"""The few git commands that a run needs. None of them touches the checkout's index, stash or branches."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class GitFault(RuntimeError):
    """A git command failed; the message holds the command and what git said."""


def git(root: Path, *args: str, **env: str) -> str:
    """Output of a git command; hooks do not run. Raises :class:`GitFault`."""
    command = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false", *args]
    done = subprocess.run(command, cwd=root, env=os.environ | env, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise GitFault(f"git {' '.join(args)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip("\n")


def checkout_of(start: Path) -> Path:
    """Top folder of the checkout in which ``start`` lies; raises :class:`GitFault` outside of one."""
    try:
        return Path(git(start, "rev-parse", "--show-toplevel"))
    except GitFault:
        raise GitFault(f"{start} lies in no git checkout; change to the folder of your balcap clone") from None


def snapshot(checkout: Path, extra: Sequence[str] = ()) -> str:
    """Tree of HEAD plus the tracked uncommitted changes: edits, deletions and what is staged; of untracked files only
    the ``extra`` ones.

    Works on a copy of the index, so it neither waits for nor disturbs anybody else's git.
    """
    index = Path(git(checkout, "rev-parse", "--path-format=absolute", "--git-path", "index"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "index"
        if index.exists():
            shutil.copyfile(index, copy)
        git(checkout, "add", "--update", ".", GIT_INDEX_FILE=str(copy))
        if extra:
            git(checkout, "add", "--force", "--", *extra, GIT_INDEX_FILE=str(copy))
        return git(checkout, "write-tree", GIT_INDEX_FILE=str(copy))


def commit(checkout: Path, tree: str, parent: str, message: str) -> str:
    """A commit that no branch holds; its author is the project, whoever is known to git."""
    who = {f"GIT_{role}_{what}": "balcap" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return git(checkout, "commit-tree", tree, "-p", parent, "-m", message, **who)


def untracked(checkout: Path, path: str) -> list[str]:
    """Files at or below ``path`` that git neither tracks nor ignores, relative to the checkout."""
    listed = git(checkout, "ls-files", "--others", "--exclude-standard", "-z", "--", path)
    return [name for name in listed.split("\0") if name]


def refs(checkout: Path, pattern: str) -> list[str]:
    """Names of the refs that match a pattern."""
    return git(checkout, "for-each-ref", "--format=%(refname)", pattern).splitlines()
