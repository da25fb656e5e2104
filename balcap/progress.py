"""Progress of a stage as plain lines that a person, a log and the flow's display can all read.

▸ train 37/150 steps, 2:13 left; precision 0.52 recall 0.41 linguistic 0.91
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

LINE = re.compile(
    r"^▸ (?P<what>\S+) (?P<done>\d+)/(?P<total>\d+) (?P<unit>[^,;]+), (?P<left>[\d:?]+) left(?:; (?P<note>.*))?$"
)


class Progress:
    """Prints at most one line per ``every`` seconds, and one when the last unit is done."""

    def __init__(
        self, what: str, total: int, unit: str, every: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.total, self.unit, self.every, self.clock = what, total, unit, every, clock
        self.done = self.first = 0
        self.start = clock()
        self.shown = -every

    def skip(self, done: int) -> None:
        """Units that an earlier run finished: counted as done, not as speed."""
        self.done = self.first = done

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more units are done; ``note`` is shown behind the estimate."""
        self.done += n
        now = self.clock()
        if now - self.shown >= self.every or self.done >= self.total:
            self.shown = now
            print(self.line(note), flush=True)

    def line(self, note: str = "") -> str:
        """The line as it would be printed now."""
        fresh = self.done - self.first
        left = (self.clock() - self.start) / fresh * (self.total - self.done) if fresh else float("nan")
        tail = f"; {note}" if note else ""
        return f"▸ {self.what} {self.done}/{self.total} {self.unit}, {duration(left)} left{tail}"


def duration(seconds: float) -> str:
    """``75`` as ``1:15``, ``3700`` as ``1:01:40``, unknown as ``?``."""
    if seconds != seconds:
        return "?"
    minutes, s = divmod(round(max(seconds, 0.0)), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


@dataclass(frozen=True)
class ProgressLine:
    """A parsed progress line."""

    what: str
    done: int
    total: int
    unit: str
    left: str
    note: str


def parse(line: str) -> ProgressLine | None:
    """Read a line that :class:`Progress` printed, or ``None``."""
    match = LINE.match(line.strip())
    if match is None:
        return None
    groups = match.groupdict()
    return ProgressLine(
        groups["what"], int(groups["done"]), int(groups["total"]), groups["unit"], groups["left"], groups["note"] or ""
    )
