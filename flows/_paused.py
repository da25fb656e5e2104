"""Paused runs, each kept as a git commit until it is resumed: what a resumed run needs to be the same run.

    refs/balcap/paused/NAME   the worktree's files; the message: what was asked, the checkout's marks, what is done
      its parent              the checkout's tracked files when the run started
        its parent            the commit that both stand on

The worktree goes, and somebody who edits the checkout meanwhile changes nothing of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows._git import commit, git, refs, snapshot

REFS = "refs/balcap/paused/"


class NotPaused(ValueError):
    """No run of this name is paused; the message names those that are."""


@dataclass(frozen=True)
class Paused:
    """A paused run: what was asked (JSON), the checkout's marks, and git's objects of the module's text."""

    asked: str
    marks: dict[str, str | None]
    finished: frozenset[str]
    """Stages that are done and that ``--force`` does not run again."""
    baseline: str
    origin: str
    """Tree of the checkout."""
    tree: str
    """Tree of the run's worktree."""
    params: str
    """Text of its params.yaml."""


def keep(
    checkout: Path,
    name: str,
    *,
    root: Path,
    baseline: str,
    origin: str,
    extra: Iterable[str],
    asked: str,
    marks: Mapping[str, str | None],
    finished: Iterable[str],
) -> None:
    """Keep the worktree ``root``: its tracked files, changed or not, and ``extra`` ones where they exist."""
    files = [path for path in extra if (root / path).exists()]
    began = commit(checkout, origin, baseline, f"balcap run {name}: the checkout it started in")
    message = json.dumps({"asked": asked, "marks": dict(marks), "finished": sorted(finished)})
    git(checkout, "update-ref", REFS + name, commit(checkout, snapshot(root, files), began, message))


def recall(checkout: Path, name: str) -> Paused:
    """The paused run of a name; raises :class:`NotPaused`."""
    ref = REFS + name
    if name not in names(checkout):
        raise NotPaused(f"no run called {name} is paused; paused are: {', '.join(names(checkout)) or 'none'}")
    kept = json.loads(git(checkout, "log", "-1", "--format=%B", ref))
    return Paused(
        kept["asked"],
        kept["marks"],
        frozenset(kept["finished"]),
        baseline=git(checkout, "rev-parse", f"{ref}~2"),
        origin=git(checkout, "rev-parse", f"{ref}~1^{{tree}}"),
        tree=git(checkout, "rev-parse", f"{ref}^{{tree}}"),
        params=git(checkout, "show", f"{ref}:params.yaml"),
    )


def names(checkout: Path) -> list[str]:
    """Names of the paused runs."""
    return sorted(ref.removeprefix(REFS) for ref in refs(checkout, REFS))


def forget(checkout: Path, name: str) -> None:
    """The paused run of this name has ended well, or another one has taken its name."""
    if name in names(checkout):
        git(checkout, "update-ref", "-d", REFS + name)
