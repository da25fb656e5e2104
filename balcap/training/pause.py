"""The marker of a paused training, in its work folder: what sounded, and what somebody has accepted by going on.

    mark(work, [sound])           # paused.json
    waiting(work)                 # the alarms in it
    go_on(work)                   # at the next start: the same alarms of the same steps pause no more

The marker is written behind the checkpoint of its step, so that a run is paused only where it can be gone on with. One
that is killed between the two, or whose checkpoint fails, has not paused: it pauses when it comes there again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from balcap.files import write_json
from balcap.training.alarms import Sound
from balcap.training.stopping import Ended

RESUME = "BALCAP_RESUME"
"""Set in a stage's environment by a flow that resumes."""
MARKER = "paused.json"
ACCEPTED = "accepted.json"


class AlarmPaused(Ended):
    """An alarm whose action is ``pause`` sounded; a checkpoint and a marker were written."""


class AlarmStopped(Ended):
    """An alarm whose action is ``stop`` sounded, or sounds still; a checkpoint was written."""


def mark(work: Path, sounds: Sequence[Sound]) -> None:
    """Write the marker; ``run`` is the name that ``balcap resume`` takes, null outside of a flow."""
    write_json(work / MARKER, {"run": os.environ.get("DVC_EXP_NAME"), "alarms": [asdict(sound) for sound in sounds]})


def waiting(work: Path) -> list[Sound]:
    """The alarms that paused the run and that nobody has accepted."""
    return [Sound(**found) for found in _read(work / MARKER).get("alarms", [])]


def accepted(work: Path) -> set[tuple[str, str, int]]:
    """Alarm, subject and step of everything that somebody went on after."""
    return {tuple(one) for one in _read(work / ACCEPTED).get("alarms", [])}


def go_on(work: Path) -> None:
    """Accept what is waiting. Outside of a flow whoever starts the stage again accepts it; a flow does so only where it
    was told to resume, so that neither a retry nor a schedule goes past a pause. Raises :class:`AlarmPaused`.
    """
    sounds = waiting(work)
    if not sounds:
        return
    if "BALCAP_FLOW_RUN_ID" in os.environ and RESUME not in os.environ:
        mark(work, sounds)
        raise AlarmPaused(f"{told(sounds)}; nobody has accepted that yet")
    write_json(work / ACCEPTED, {"alarms": sorted(accepted(work) | {identity(sound) for sound in sounds})})
    (work / MARKER).unlink()


def find(folder: Path, run: str) -> Path | None:
    """The work folder, among those of a stage, in which the run of this name is paused."""
    markers = [path for path in folder.glob(f"*/{MARKER}") if _read(path).get("run") == run]
    return max(markers, key=lambda path: path.stat().st_mtime).parent if markers else None


def told(sounds: Sequence[Sound]) -> str:
    """Sounds in one line."""
    return "; ".join(map(str, sounds))


def identity(sound: Sound) -> tuple[str, str, int]:
    """What makes two sounds the same one."""
    return sound.alarm, sound.subject, sound.step


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
