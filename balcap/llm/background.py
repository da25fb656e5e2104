"""An event loop in a thread of its own, for callers that do not wait in one: no wait is without an end.

with Background() as loop:
    loop.run(coroutine, 90.0)                    # TimeoutError, also when what it runs blocks the loop
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

GRACE = 5.0
"""Seconds that a loop gets to report after a deadline; what blocks it never does."""
T = TypeVar("T")


class Background:
    """An event loop in a thread of its own: work goes on while the caller does, and no wait is without an end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="asking", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work``; returns at once."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of ``work``; raises ``TimeoutError`` after ``seconds``."""
        return take(self.submit(work), seconds)

    def close(self) -> None:
        """Cancel what still runs and stop the loop; what blocks it is abandoned with it."""
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop)
        self._thread.join(GRACE)
        if not self._thread.is_alive():
            self._loop.close()

    async def _cancel_all(self) -> None:
        await cancel_others()
        self._loop.stop()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def cancel_others() -> None:
    """Cancel all other tasks of the running loop, and give them a moment to clean up."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE / 2)


def take(future: Future[T], seconds: float) -> T:
    """The result of ``future``; after ``seconds`` it is cancelled and ``TimeoutError`` raised."""
    try:
        return future.result(max(0.0, seconds))
    except TimeoutError:
        future.cancel()
        raise
