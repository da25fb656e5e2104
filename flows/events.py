"""What a run tells whoever watches it in the same process (the terminal); Prefect gets the same as states and logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from flows._dvc import Planned


class Watcher:
    """Watches a run and does nothing: a run under a worker has nobody to tell. Subclasses show it."""

    def planned(self, name: str, stages: Sequence[Planned]) -> None:
        """The run has its name and its stages."""

    def started(self, stage: str, reason: str) -> None:
        """A stage's command starts, for this reason."""

    def line(self, stage: str, text: str) -> None:
        """A line of a stage's output."""

    def finished(self, stage: str, state: str, message: str) -> None:
        """A stage has ended in a state of this name."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watcher() -> Watcher:
    """Whoever watches the run of this context."""
    return _watcher.get() or Watcher()


@contextmanager
def watched_by(somebody: Watcher) -> Iterator[None]:
    """Runs started in the block tell ``somebody``."""
    token = _watcher.set(somebody)
    try:
        yield
    finally:
        _watcher.reset(token)
