"""Where a training step spends its time: phases exclude each other, an inner one pauses the outer.

with clock("update"):
    with clock("generate"): ...      # counted as generate, not as update
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall seconds per phase since the last :meth:`take`."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = self._start = time.perf_counter()

    def _turn(self) -> None:
        """Book the time since the last turn on the phase on top."""
        now = time.perf_counter()
        if self._stack:
            phase = self._stack[-1]
            self._spent[phase] = self._spent.get(phase, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the block as ``phase``."""
        self._turn()
        self._stack.append(phase)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def take(self) -> dict[str, float]:
        """Seconds per phase, and ``step`` for all since the last call or :meth:`restart`; starts anew."""
        self._turn()
        spent = {**self._spent, "step": self._since - self._start}
        self.restart()
        return spent

    def restart(self) -> None:
        """Forget what was counted (samples and checkpoints are no part of a step)."""
        self._spent.clear()
        self._since = self._start = time.perf_counter()
