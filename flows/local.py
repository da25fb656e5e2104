"""One run on this machine: checked, with a Prefect server, shown in the terminal; nothing of it outlives the call.

outcome = execute(RunRequest(recipe="embedded"), Path.cwd())
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balcap.params import Params
from flows._server import prefect_server
from flows.display import Board, for_terminal
from flows.events import watched_by
from flows.request import RunRequest, check

if TYPE_CHECKING:
    from flows.pipeline import RunResult


class RunPaused(RuntimeError):
    """An alarm paused the run; the message says which, where to look and how to go on."""


class RunFailed(RuntimeError):
    """The run ended otherwise than well; ``cancelled`` when somebody wanted that."""

    def __init__(self, message: str, cancelled: bool = False) -> None:
        super().__init__(message)
        self.cancelled = cancelled


def execute(request: RunRequest, checkout: Path) -> RunResult:
    """Check the request, run it and show it. Raises what :func:`flows.request.check` raises, :class:`RunPaused` and
    :class:`RunFailed`.
    """
    _warn_of_silence(check(checkout, request))
    display = for_terminal()
    shown: AbstractContextManager[Any] = display if isinstance(display, Board) else nullcontext()
    with terminable(), shown, watched_by(display), prefect_server(checkout):
        from flows.pipeline import PAUSED, pipeline  # Prefect reads its settings when it is imported

        state: Any = pipeline(request, return_state=True)
        if state.name == PAUSED:
            raise RunPaused(state.message)
        if not state.is_completed():
            raise RunFailed(state.message or "", cancelled=state.is_cancelled())
        result: RunResult = state.result()
    return result


def _warn_of_silence(params: Params) -> None:
    """Name the models that do not answer; without any, nothing of a client is imported."""
    if params.asked_models:
        from balcap.llm.reach import silent_models

        for warning in silent_models(params):
            print(f"warning: {warning}", flush=True)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM unwinds like Ctrl-C does, so that worktree, stage and server end with the run."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
