"""Checkpoints of training: complete under their name or not there at all; the last two are kept.

    checkpoint-N/policy/        a captioner folder
    checkpoint-N/…              optimizer, random numbers, counters, curves

A checkpoint lies at the boundary of a generation phase: what a phase has sampled is not in it, and need not be, for the
random numbers are those that sample it again. Whoever must end a run writes one first:

    kept = trainer.checkpoint_now()        # "checkpoint-8 is kept", or that there is nothing to keep
    raise Ended(f"{reason}; {kept}, run again ...")

All ranks call it together: at the end of a phase (``on_step_end``, once the step's row is in the history), or within
one as long as none of its updates has been made.

- ``_save``, ``_load_from_checkpoint``: the model of a checkpoint is a captioner folder. Trainer's own loading would
  leave a LLaVA untouched without a word: its checkpoint has other key names than the module.
- ``_get_output_dir``, ``_save_checkpoint``: written under another name, renamed when complete.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from trl import GRPOTrainer

from balcap.files import remove
from balcap.policy.store import Policy, load_policy, save_policy

POLICY = "policy"
KEPT = 2


class Checkpointed(GRPOTrainer):
    """A trainer of ``policy`` whose checkpoints can be trusted."""

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        self.policy = policy
        self.extra_state: Callable[[Path], None] = lambda folder: None
        """Writes what else belongs to a checkpoint into its folder."""
        self._phase = (-1, random_state())
        self._run_dir: Path | None = None
        super().__init__(model=policy.model, processing_class=policy.processor, **kwargs)

    def phase_begins(self) -> None:
        """Remember the random numbers from which the phase's captions are sampled."""
        self._phase = (self.state.global_step, random_state())

    def checkpoint_now(self) -> str:
        """Keep what was learnt, before the run ends; says what is kept. See the module's text for when to call it."""
        step = self.state.global_step
        if step == 0:
            return "nothing is lost, no step was finished"
        if step % (self.args.steps_per_generation // self.args.gradient_accumulation_steps):
            raise RuntimeError(f"update {step} does not end a generation phase")
        if not self._checkpoint(step).exists():
            began, random = self._phase
            if began == step:  # within the phase that follows: the resumed run samples its captions again
                set_random_state(random)
            self._save_checkpoint(self.model, None)
        return f"checkpoint-{step} is kept"

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(str(output_dir or self.args.output_dir))
        save_policy(replace(self.policy, model=self.accelerator.unwrap_model(self.model)), folder / POLICY)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved = load_policy(Path(resume_from_checkpoint) / POLICY).model.state_dict()
        self.policy.model.load_state_dict(saved)

    def _checkpoint(self, step: int) -> Path:
        return Path(str(self.args.output_dir)) / f"checkpoint-{step}"

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._run_dir) if self._run_dir else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        target = self._checkpoint(self.state.global_step)
        self._run_dir = target.parent / ".partial"
        remove(self._run_dir)
        try:
            super()._save_checkpoint(model, trial)
            self.extra_state(self._run_dir / target.name)
            remove(target)
            os.replace(self._run_dir / target.name, target)
        except RuntimeError as error:  # torch.save on a full disk does not say so
            raise OSError(
                errno.EIO, f"the checkpoint cannot be written ({error}); is the disk full?", target
            ) from error
        finally:
            remove(self._run_dir)
            self._run_dir = None
        for old in checkpoints(target.parent)[:-KEPT]:
            remove(old)


def random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """State of the generators that sampling uses: of the CPU and of every CUDA device."""
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def checkpoints(work: Path) -> list[Path]:
    """Complete checkpoints in order of their step."""
    return sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
