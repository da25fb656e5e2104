"""How a run ends early, in a controlled way: the exceptions, whose messages tell all, and SIGTERM.

    with Sigterm() as sigterm:
        found = sigterm.cut(wait)       # what wait() returns; None as soon as SIGTERM arrives
        if sigterm.asked: ...           # anywhere else: asked for where the run can be left

The signal only sets a flag, for an update of the weights must not be torn; a second one changes nothing. What is done
about it is in ``survival.py``.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
NOTED = "SIGTERM: ending, with a checkpoint if all ranks are there to write it"
"""Survivors of a crash get the signal, too."""


class Ended(RuntimeError):
    """Training ended before its last step, and everything worth keeping is in a checkpoint; the message tells all."""


class Stopped(Ended):
    """SIGTERM arrived: a scheduler wants the machine back."""


class NotFinite(Ended):
    """A loss or a gradient is not a finite number; nothing of it is in a checkpoint."""


class Interrupt(BaseException):
    """Raised by SIGTERM inside :meth:`Sigterm.cut`; no ``except Exception`` on the way may keep it."""


class Sigterm:
    """Within the block SIGTERM is noted; outside the main thread, which gets no signals, nothing happens."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False
        self._before: Any = None

    def __enter__(self) -> Sigterm:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self.asked = True
            print(NOTED, file=sys.stderr, flush=True)
        if self._waiting:
            self._waiting = False  # a second signal must not cut short what ends the wait
            raise Interrupt

    def cut(self, wait: Callable[[], T]) -> T | None:
        """What ``wait`` returns; ``None`` as soon as SIGTERM arrives, or if it already has."""
        try:
            self._waiting = True
            return None if self.asked else wait()
        except Interrupt:
            return None
        finally:
            self._waiting = False
