"""Checkpoints of training: complete under their name or not there at all, without pickles, verified when they are read.

    checkpoint-N/policy/                captioner folder; with LoRA the adapters alone
    checkpoint-N/optimizer.safetensors  its moments; with DeepSpeed each rank's part of moments and masters, in shards/
    checkpoint-N/rank-R.safetensors     random numbers and learning rate of rank R
    checkpoint-N/*.json                 counters, curves, and last of all the manifest: sha256 of every file

The last two are kept. All ranks write into one partial folder, on disks that all machines share; the first one renames.

A checkpoint lies at the boundary of a generation phase: what a phase has sampled is not in it, and need not be, for the
random numbers are those that sample it again. Whoever must end a run writes one first:

    kept = trainer.checkpoint_now()        # "checkpoint-8 is kept", or that there is nothing to keep
    raise Ended(f"{reason}; {kept}, run again ...")

All ranks call it together: at the end of a phase (``on_step_end``, once the step's row is in the history), or within
one as long as none of its updates has been made.

- ``_save_checkpoint``: all of the above in place of Trainer's pickles.
- ``_load_from_checkpoint``: the model. Trainer's own loading would leave a LLaVA untouched without a word: its
  checkpoint has other key names than the module.
- ``_prepare_for_training``, ``_load_rng_state``: everything else.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object, is_peft_model
from safetensors import SafetensorError
from trl import GRPOTrainer

from balcap.files import remove
from balcap.policy.lora import load_adapters, save_adapters
from balcap.policy.store import Policy, load_policy, save_policy
from balcap.training import manifest
from balcap.training.manifest import checkpoints
from balcap.training.nested import load_nested, save_nested

KEPT = 2
PARTIAL = ".partial"
POLICY, OPTIMIZER, STATE = "policy", "optimizer.safetensors", "trainer_state.json"


class Checkpointed(GRPOTrainer):
    """A trainer of ``policy`` whose checkpoints can be trusted."""

    args: Any  # what Trainer declares too widely
    optimizer: Any
    lr_scheduler: Any
    model_wrapped: Any

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        self.policy = policy
        self.extra_state: Callable[[Path], None] = lambda folder: None
        """Writes what else belongs to a checkpoint into its folder; called on the first rank."""
        self._phase = (-1, random_state())
        self._kept_step = 0
        super().__init__(model=policy.model, processing_class=policy.processor, **kwargs)

    def phase_begins(self) -> None:
        """Remember the random numbers from which the phase's captions are sampled."""
        self._phase = (self.state.global_step, random_state())

    def at_boundary(self) -> bool:
        """Whether no update of the running phase has been made."""
        return self.state.global_step % self.updates_per_phase == 0

    @property
    def updates_per_phase(self) -> int:
        """Optimizer steps of one generation phase."""
        return int(self.args.steps_per_generation // self.args.gradient_accumulation_steps)

    def checkpoint_now(self) -> str:
        """Keep what was learnt, before the run ends; says what is kept. See the module's text for when to call it."""
        step = self.state.global_step
        if step == 0:
            return "nothing is lost, no step was finished"
        if not self.at_boundary():
            raise RuntimeError(f"update {step} does not end a generation phase")
        if self._kept_step != step:
            began, numbers = self._phase
            if began == step:  # within the phase that follows: the resumed run samples its captions again
                set_random_state(numbers)
            self._save_checkpoint(self.model, None)
        return self.kept()

    def kept(self) -> str:
        """What a run that ends now goes on from, in words."""
        return f"checkpoint-{self._kept_step} is kept" if self._kept_step else "there is no checkpoint yet"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        target = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        partial = target.with_name(PARTIAL)
        weights = self.gathered()
        try:
            self._together(target, lambda: self._clear(partial))
            self._together(target, lambda: self._write(partial, weights))
            # Each rank sees at least its own files: a disk over the network may show those of others late.
            names = sorted(self._together(target, lambda: dict.fromkeys(manifest.files(partial), "")))
            digests = self._together(target, lambda: self._hash(partial, names))
            self._together(target, lambda: self._finish(partial, target, digests))
        finally:
            if self.accelerator.is_main_process:
                remove(partial)
        self._kept_step = self.state.global_step

    @property
    def ranks(self) -> int:
        """Processes of the run."""
        return self.accelerator.num_processes

    def setting(self) -> dict[str, Any]:
        """What must be equal where a checkpoint is written and where it is read."""
        return {"ranks": self.ranks, "zero": self.zero_stage}

    @property
    def zero_stage(self) -> int:
        """What DeepSpeed shards over the ranks; 0 without it."""
        return self.model_wrapped.zero_optimization_stage() if self.is_deepspeed_enabled else 0

    def _together(self, target: Path, do: Callable[[], dict[str, str] | None]) -> dict[str, str]:
        """What all ranks' ``do`` return, joined; if one cannot write, all raise: nobody waits for who is gone."""
        mine: dict[str, str] | OSError | None
        try:
            mine = do()
        except SafetensorError as error:
            mine = OSError(errno.EIO, str(error))
        except OSError as error:
            mine = OSError(error.errno, error.strerror or str(error))
        found = gather_object([mine])
        if failed := next((one for one in found if isinstance(one, OSError)), None):
            first = "" if failed.errno == errno.EIO else "free some space and "
            raise OSError(failed.errno, f"{failed.strerror}; {first}run again, {self.kept()}", str(target))
        return {name: digest for one in found if one for name, digest in one.items()}

    def _clear(self, partial: Path) -> None:
        if self.accelerator.is_main_process:
            remove(partial)
            partial.mkdir(parents=True)

    def gathered(self) -> Any:
        """The weights where no rank has them all (ZeRO-3): on the first rank; else ``None``. All ranks call it."""
        return self.accelerator.get_state_dict(self.model_wrapped) if self.zero_stage == 3 else None

    def _write(self, partial: Path, weights: Any) -> None:
        """This rank's files."""
        if self.is_deepspeed_enabled:
            from balcap.training.shards import save_shards

            save_shards(self.model_wrapped, partial)
        own = {"random": random_state(), "schedule": self.lr_scheduler.state_dict()}
        save_nested(own, partial / self._own_file(self.accelerator.process_index))
        if self.accelerator.is_main_process:
            self._write_shared(partial, weights)

    def _own_file(self, rank: int) -> str:
        return f"rank-{rank}.safetensors"

    def _write_shared(self, partial: Path, weights: Any) -> None:
        self._write_model(partial / POLICY, weights)
        if not self.is_deepspeed_enabled:
            save_nested(self.optimizer.state_dict(), partial / OPTIMIZER)
        self.state.save_to_json(str(partial / STATE))
        self.extra_state(partial)

    def _write_model(self, folder: Path, weights: Any) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if is_peft_model(model):
            save_adapters(model, folder, weights)
        else:
            save_policy(replace(self.policy, model=model), folder, weights)

    def _hash(self, partial: Path, names: list[str]) -> dict[str, str]:
        """Hashes of this rank's share of all files, dealt out: who wrote them does not matter."""
        _check_there(partial, names)
        return manifest.hashes(partial, names[self.accelerator.process_index :: self.ranks])

    def _finish(self, partial: Path, target: Path, digests: dict[str, str]) -> None:
        """Give it its name, and let older ones go; later ones are of a run that went on from a damaged checkpoint."""
        if not self.accelerator.is_main_process:
            return
        manifest.write(partial, self.setting(), digests)
        remove(target)
        os.replace(partial, target)
        older, later = self._others(target)
        for folder in older[: 1 - KEPT] + later:
            _let_go(folder)

    def _others(self, target: Path) -> tuple[list[Path], list[Path]]:
        """Checkpoints of earlier and of later steps."""
        found, step = checkpoints(target.parent), manifest.step(target)
        return [c for c in found if manifest.step(c) < step], [c for c in found if manifest.step(c) > step]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint) / POLICY
        if is_peft_model(self.model):
            load_adapters(self.accelerator.unwrap_model(self.model), folder)
        else:
            saved = load_policy(folder, dtype=self.policy.model.dtype)
            self.policy.model.load_state_dict(saved.model.state_dict())

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if self.is_deepspeed_enabled:
            from balcap.training.shards import adopt

            adopt(self.model_wrapped)
        if resume_from_checkpoint is not None:
            self._restore(Path(resume_from_checkpoint))
        return prepared

    def _restore(self, folder: Path) -> None:
        """Optimizer and learning rate, and with DeepSpeed the weights, which Trainer loads only without it."""
        manifest.check_setting(folder, self.setting())
        if self.is_deepspeed_enabled:
            from balcap.training.shards import load_shards

            load_shards(self.model_wrapped, folder)
            if self.zero_stage < 3:
                self._load_from_checkpoint(str(folder))
        else:
            self.optimizer.load_state_dict(load_nested(folder / OPTIMIZER))
        self.lr_scheduler.load_state_dict(self._own(folder)["schedule"])
        self._kept_step = manifest.step(folder)

    def _own(self, folder: Path) -> Any:
        return load_nested(folder / self._own_file(self.accelerator.process_index))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(self._own(Path(checkpoint))["random"])


def _let_go(folder: Path) -> None:
    """Remove a checkpoint that another one replaces; that it cannot be removed is no reason to end a run."""
    try:
        remove(folder)
    except OSError as error:
        why = error.strerror or error
        print(f"warning: {folder} could not be removed ({why}) and takes its room", file=sys.stderr, flush=True)


def _check_there(folder: Path, names: list[str]) -> None:
    """Raise ``OSError`` if a file that some rank sees is not to be seen from here."""
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise OSError(errno.EIO, f"{missing[0]} is not there: all machines need one disk (BALCAP_WORK)")


RandomState = dict[str, Any]


def random_state() -> RandomState:
    """State of every generator that training may use: Python's, numpy's, torch's, and of this rank's GPU."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: RandomState) -> None:
    """Put back what :func:`random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
