"""Reward health: sounds the alarms of a running training and does what each is set to do.

    warn    a line on the console, and metric `alarm/NAME` in MLflow: what it measured
    pause   the same; then the marker (``pause.py``) and a checkpoint, and training ends: it goes on when it is resumed
    stop    the same; then a checkpoint, and training fails, again and again, until the alarm is silent or set otherwise

Every rank has the same curves, and so decides alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from balcap.params.train import Train
from balcap.training import pause
from balcap.training.alarms import Sound, replay
from balcap.training.callbacks import History, Tracker
from balcap.training.ranks import is_main
from balcap.training.trainer import CaptionTrainer

STAY = "train.alarms.when.{}: a higher limit, or another action, lets it go on"


class Health(TrainerCallback):
    """Watches ``history``; ``trainer`` is set before training starts, and this stands behind whoever adds the rows."""

    trainer: CaptionTrainer

    def __init__(self, params: Train, rewards: Sequence[str], history: History, run: Tracker, work: Path) -> None:
        self.params, self.history, self.run, self.work = params, history, run, work
        self.accepted = pause.accepted(work)
        self.watch, _ = replay(history.curves, params.alarms, rewards)

    def on_train_begin(self, *args: Any, **_: Any) -> None:
        for sound in self.watch.sounding.values():
            if sound.action == "stop":
                raise pause.AlarmStopped(f"{sound}; {STAY.format(sound.alarm)}")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.params.updates_per_step:
            return
        sounds = self.watch.see(self.history.curves)
        for sound in sounds:
            self._tell(sound)
        if stops := [sound for sound in sounds if sound.action == "stop"]:
            kept = self.trainer.checkpoint_now()
            raise pause.AlarmStopped(f"{pause.told(stops)}; {kept}; {STAY.format(stops[0].alarm)}")
        if pauses := [s for s in sounds if s.action == "pause" and pause.identity(s) not in self.accepted]:
            if is_main():
                pause.mark(self.work, pauses)
            raise pause.AlarmPaused(f"{pause.told(pauses)}; {self.trainer.checkpoint_now()}")

    def _tell(self, sound: Sound) -> None:
        if is_main():
            self.run.log({f"alarm/{sound.alarm}": sound.value}, step=sound.step)
            print(f"warning: {sound}", flush=True)
