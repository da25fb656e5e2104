"""Reward health: sounds the alarms of a running training and does what each is set to do.

    warn    a line on the console, and metric `alarm/NAME[/SUBJECT]` in MLflow: what it measured
    pause   the same; then a checkpoint and the marker (``pause.py``), and training ends: it goes on when it is resumed
    stop    the same; then a checkpoint, and training fails, again and again, until the alarm is silent or set otherwise

An alarm that sounds already where training begins acts again: one that stops always, one that pauses until somebody has
accepted it. Where both sound, training fails first, and pauses once the other lets it go on. Every rank has the same
curves, and so decides alike.
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
from balcap.training.ranks import from_main, is_main
from balcap.training.trainer import CaptionTrainer

STAY = "train.alarms.when.{}: a higher limit, or another action, lets it go on"


class Health(TrainerCallback):
    """Watches ``history``; ``trainer`` is set before training starts, and this stands behind whoever adds the rows."""

    trainer: CaptionTrainer

    def __init__(self, params: Train, rewards: Sequence[str], history: History, run: Tracker, work: Path) -> None:
        self.params, self.history, self.run, self.work = params, history, run, work
        self.accepted = from_main(lambda: pause.accepted(work))
        self.watch, _ = replay(history.curves, params.alarms, rewards)

    def on_train_begin(self, *args: Any, **_: Any) -> None:
        self._act(list(self.watch.sounding.values()))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % self.params.updates_per_step:
            return
        sounds = self.watch.see(self.history.curves)
        for sound in sounds:
            self._tell(sound)
        self._act(sounds)

    def _act(self, sounds: Sequence[Sound]) -> None:
        """End training with a checkpoint if one of ``sounds`` stops it, or pauses it and nobody has accepted that."""
        stops = [s for s in sounds if s.action == "stop"]
        pauses = [s for s in sounds if s.action == "pause" and pause.identity(s) not in self.accepted]
        if not stops and not pauses:
            return
        kept = self.trainer.checkpoint_now()
        if stops:
            raise pause.AlarmStopped(f"{pause.told(stops)}; {kept}; {STAY.format(stops[0].alarm)}")
        if is_main():
            pause.mark(self.work, pauses)
        raise pause.AlarmPaused(f"{pause.told(pauses)}; {kept}")

    def _tell(self, sound: Sound) -> None:
        if is_main():
            name = "/".join(part for part in ("alarm", sound.alarm, sound.subject) if part)
            self.run.log({name: sound.value}, step=sound.step)
            print(f"warning: {sound}", flush=True)
