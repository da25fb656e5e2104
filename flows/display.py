"""The run in a terminal: a live table of stages, their warnings above it, or plain lines where nobody looks (a file, a
pipe, CI).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from balcap.progress import duration, parse
from flows._dvc import Planned
from flows.events import Watcher

SYMBOLS = {"Completed": "✔", "Cached": "=", "Running": "▸", "Waiting": " ", "Paused": "‖"}
STYLES = {"Completed": "green", "Cached": "cyan", "Running": "bold", "Waiting": "dim", "Paused": "yellow"}
WARNING = "warning: "


class Plain(Watcher):
    """One line per event, with the stage in front."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}

    def planned(self, name: str, stages: Sequence[Planned]) -> None:
        print(f"run {name}: {len(stages)} stages", flush=True)

    def started(self, stage: str, reason: str) -> None:
        self._began[stage] = time.monotonic()
        print(f"{stage}: running, because {reason}", flush=True)

    def line(self, stage: str, text: str) -> None:
        print(f"{stage} | {text}", flush=True)

    def finished(self, stage: str, state: str, message: str) -> None:
        took = f" in {duration(time.monotonic() - self._began[stage])}" if stage in self._began else ""
        first = message.partition("\n")[0]
        print(f"{stage}: {state}{took}{'' if state == 'Completed' else f' ({first})'}", flush=True)


class Row:
    """What the table shows of a stage."""

    def __init__(self) -> None:
        self.state, self.note = "Waiting", ""
        self.began = self.ended = 0.0

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


class Board(Watcher):
    """A table that is redrawn in place: stage, state, time, and the stage's last progress or line."""

    def __init__(self, console: Console) -> None:
        self._rows: dict[str, Row] = {}
        self._name = ""
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=4, transient=False)

    def __enter__(self) -> Board:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def planned(self, name: str, stages: Sequence[Planned]) -> None:
        self._name, self._rows = name, {stage.name: Row() for stage in stages}

    def started(self, stage: str, reason: str) -> None:
        row = self._rows[stage]
        row.state, row.note, row.began = "Running", f"because {reason}", time.monotonic()

    def line(self, stage: str, text: str) -> None:
        progress = parse(text)
        if text.startswith(WARNING):  # above the table, where the next line does not take its place
            self._live.console.print(f"{stage}: {text}", style="yellow", markup=False, highlight=False)
        elif progress is None:
            self._rows[stage].note = text
        else:
            left = f"{progress.done}/{progress.total} {progress.unit}, {progress.left} left"
            self._rows[stage].note = f"{left}  {progress.note}"

    def finished(self, stage: str, state: str, message: str) -> None:
        row = self._rows[stage]
        row.state, row.ended = state, time.monotonic()
        row.note = "" if state == "Completed" else message.partition("\n")[0]

    def _draw(self) -> Table:
        table = Table(box=None, pad_edge=False, title=f"run {self._name}" if self._name else "starting …")
        table.title_justify = "left"
        for column in ("", "stage", "state", "time"):
            table.add_column(column, no_wrap=True)
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
        for stage, row in self._rows.items():
            style = STYLES.get(row.state, "red")
            took = duration(row.seconds) if row.began else ""
            table.add_row(
                SYMBOLS.get(row.state, "✘"), stage, Text(row.state, style), took, Text(row.note, "dim"),
                style="dim" if row.state == "Waiting" else "",
            )  # fmt: skip
        return table


def for_terminal() -> Plain | Board:
    """The table where somebody looks at a terminal, plain lines otherwise."""
    return Board(Console()) if sys.stdout.isatty() else Plain()
