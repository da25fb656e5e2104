"""What a run tells while it trains: a progress line, curves, and what the captioner says of a few fixed pictures.

Curves and samples are kept in every checkpoint, so that a resumed run goes on with exactly the rows of the steps that
the checkpoint has seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.models.utils import unwrap_model_for_generation

from balcap.files import write_json
from balcap.images import decode
from balcap.params.train import Train
from balcap.policy.generate import generate_captions
from balcap.policy.store import Policy
from balcap.progress import Progress
from balcap.records import Caption, Picture
from balcap.training.judging import Group, Judging, Scored
from balcap.training.metrics import TIMES, over_ranks
from balcap.training.ranks import is_main
from balcap.training.trainer import CaptionTrainer

HISTORY = "history.json"
TRL_LOGS = (
    "loss",
    "grad_norm",
    "learning_rate",
    "kl",
    "clip_ratio/region_mean",
    "completions/clipped_ratio",
)
"""Of what TRL logs, the part that goes to MLflow under its own names."""


class Tracker(Protocol):
    """Where a run's numbers and samples go (``balcap.tracking.StageRun``); never raises."""

    def log(self, metrics: Mapping[str, float | None], step: int | None = None) -> None: ...

    def table(self, name: str, frame: pd.DataFrame, images: Sequence[str] = ()) -> None: ...


@dataclass
class History:
    """Rows of the curves and of the samples so far; unknown numbers are ``None``, as JSON wants it."""

    curves: list[dict[str, float | None]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Into a checkpoint."""
        write_json(folder / HISTORY, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> History:
        """From a checkpoint."""
        return cls(**json.loads((folder / HISTORY).read_text(encoding="utf-8")))


class Reporter(TrainerCallback):
    """Fills ``history``, prints progress, logs to MLflow; ``trainer`` is set before training starts."""

    trainer: CaptionTrainer

    def __init__(
        self,
        params: Train,
        judging: Judging,
        shown: Sequence[Picture],
        history: History,
        run: Tracker,
    ) -> None:
        self.params, self.judging, self.shown, self.history, self.run = params, judging, shown, history, run
        self.progress = Progress("train", params.steps, "steps")
        self.progress.skip(len(history.curves))
        self._logs: dict[str, float] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step = state.global_step // self.params.updates_per_step
        if self._look_is_due(step) and all(row["step"] != step for row in self.history.samples):
            self._show(step)  # at the start, or where SIGTERM cut the look short that the checkpoint should hold
        self.trainer.clock.restart()

    def _look_is_due(self, step: int) -> bool:
        return step % self.params.samples_every == 0 or step == self.params.steps

    def on_pre_optimizer_step(self, *args: Any, **_: Any) -> None:
        self._optimizer = self.trainer.clock("update")
        self._optimizer.__enter__()

    def on_optimizer_step(self, *args: Any, **_: Any) -> None:
        self._optimizer.__exit__(None, None, None)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, rest = divmod(state.global_step, self.params.updates_per_step)
        if rest:
            return
        times = self.trainer.clock.take() | {"judge_total": self.judging.seconds}
        measured = self.trainer.measured
        self.history.curves.append({"step": step} | {k: None if math.isnan(v) else v for k, v in measured.items()})
        means = {name: measured[f"reward/{name}/mean"] for name in self.judging.names}
        if is_main():
            self.progress.advance(note=" ".join(f"{name} {value:.2f}" for name, value in means.items()))
        if self._look_is_due(step):
            self._show(step)
        times["samples"] = self.trainer.clock.take().get("samples", 0.0)
        self._log(step, times)

    def _log(self, step: int, times: Mapping[str, float]) -> None:
        """Metrics and times of a step, and what the judges of all ranks have cost so far."""
        seconds = {f"time/{name}": times.get(name, 0.0) for name in TIMES}
        costs = over_ranks(gather_object([self.judging.judge.account()]))
        self.run.log(self.trainer.measured | seconds | costs, step=step)
        self.trainer.clock.restart()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        found = {f"trl/{name}": logs[name] for name in TRL_LOGS if logs and logs.get(name) is not None}
        if found:
            self.run.log(found, state.global_step // self.params.updates_per_step)

    def on_save(self, *args: Any, **_: Any) -> None:
        self.trainer.clock.restart()

    def _show(self, step: int) -> None:
        """What the captioner says of the fixed pictures now, judged as in training; leaves every random state alone."""
        trainer = self.trainer
        again = trainer.args.gradient_checkpointing_kwargs  # how checkpointing is switched on again behind it
        with trainer.clock("samples"):
            with unwrap_model_for_generation(
                trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=again
            ) as model:
                captions = self._captions(replace(trainer.policy, model=model))
            if is_main():
                self._tell(step, captions)

    def _captions(self, policy: Policy) -> list[Caption]:
        """On every rank, though equal on all: under ZeRO-3 they generate together or not at all."""
        params = self.params
        policy.model.eval()
        captions = generate_captions(
            policy,
            [decode(picture.sample.image) for picture in self.shown],
            temperature=params.sampling.temperature,
            max_new_tokens=params.sampling.max_new_tokens,
            seed=params.seed,
            batch_size=len(self.shown),
        )
        policy.model.train()
        return captions

    def _tell(self, step: int, captions: list[Caption]) -> None:
        """Verdicts and rewards of the fixed pictures' captions, into history and tracking; nothing after SIGTERM."""
        groups = [Group(picture, [caption]) for picture, caption in zip(self.shown, captions, strict=True)]
        self.judging.dispatch(groups)
        judged = self.trainer.sigterm.cut(self.judging.collect)
        if judged is None:
            return
        rows = [self._row(step, group, scored) for group, scored in zip(groups, judged, strict=True)]
        self.history.samples += rows
        pictures = [group.picture.sample.image for group in groups]
        self.run.table("samples", pd.DataFrame(rows).assign(picture=pictures), images=["picture"])

    def _row(self, step: int, group: Group, scored: Scored) -> dict[str, Any]:
        """One caption of one fixed picture, as a row of the table of samples."""
        values = [None if math.isnan(value) else value for value in scored.rewards[0].tolist()]
        return {
            "step": step,
            "image_id": group.picture.sample.image_id,
            "caption": group.captions[0].text,
            "truncated": group.captions[0].truncated,
            "verdict": json.dumps(asdict(scored.judgements[0]), sort_keys=True, ensure_ascii=False),
            **dict(zip(self.judging.names, values, strict=True)),
            "masked": bool(scored.masked[0]),
        }
