"""TRL's ``GRPOTrainer`` (1.16) with our judging, rewards and advantages; each overridden method is pinned by a test.

    captions -> judging starts at once, overlapping TRL's own work -> gathered rewards -> our advantage rule

- ``_generate``: hands the captions to the judge as soon as they exist.
- ``_calculate_rewards``: waits for the judge; TRL then reads the columns and logs them.
- ``_generate_and_score_completions``: replaces TRL's advantages by our rule's, measures the batch, stops the run in a
  controlled way when the judge fails too often.
- ``_get_per_token_logps_and_entropies``, ``training_step``: timed, nothing else.
- ``_save``, ``_load_from_checkpoint``: the model of a checkpoint is a captioner folder. Trainer's own loading would
  leave a LLaVA untouched without a word: its checkpoint has other key names than the module.
- ``_get_output_dir``, ``_save_checkpoint``: a checkpoint appears complete or not at all; two are kept.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from balcap.advantages import make_rule
from balcap.advantages.base import Array
from balcap.files import remove
from balcap.params.train import Train
from balcap.policy.generate import to_caption
from balcap.policy.store import Policy, load_policy, save_policy
from balcap.records import Picture
from balcap.rewards import REWARDS
from balcap.training.clock import Clock
from balcap.training.judging import Group, Judging, Scored
from balcap.training.metrics import batch_metrics

POLICY = "policy"
KEPT = 2
UNKNOWN = "All reward functions returned None"
"""TRL's warning about a caption of which nothing is known; it prints the caption, and advises what is wrong here."""
logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: UNKNOWN not in str(record.msg))


class JudgeFailed(RuntimeError):
    """More of the judge's answers are unknown than the run accepts; a checkpoint was written."""


class CaptionTrainer(GRPOTrainer):
    """Trains ``policy.model`` in place; ``measured`` holds the metrics of the running phase."""

    def __init__(
        self,
        policy: Policy,
        params: Train,
        args: GRPOConfig,
        train_dataset: Dataset,
        pictures: Mapping[str, Picture],
        judging: Judging,
        callbacks: list[TrainerCallback],
    ) -> None:
        self.policy, self.params, self.judging = policy, params, judging
        self.pictures = pictures
        self.rule = make_rule(params.advantage, judging.names)
        self.clock = Clock()
        self.measured: dict[str, float] = {}
        self.extra_state: Callable[[Path], None] = lambda folder: None
        """Writes what else belongs to a checkpoint into its folder."""
        self._rows: list[dict[str, Any]] = []
        self._scored: list[Scored] = []
        self._random = random_state()
        self._run_dir: Path | None = None
        super().__init__(
            model=policy.model,
            reward_funcs=[self._column(k, name) for k, name in enumerate(judging.names)],
            args=args,
            train_dataset=train_dataset,
            processing_class=policy.processor,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def _column(self, k: int, name: str) -> Callable[..., list[float | None]]:
        """The reward of that name as TRL wants it: a function that returns a list, unknown as ``None``."""

        def column(**_: Any) -> list[float | None]:
            values = np.concatenate([scored.rewards[:, k] for scored in self._scored])
            return [None if np.isnan(value) else float(value) for value in values]

        column.__name__ = name
        return column

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.clock("update"):
            return super().training_step(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if torch.is_grad_enabled() else self.clock("logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _generate(self, prompts: list[Any]) -> Any:
        with self.clock("generate"):
            output = super()._generate(prompts)
        self.judging.dispatch(self._groups(output[1]))
        return output

    def _groups(self, completions: list[list[int]]) -> list[Group]:
        """Token ids of this rank's captions as groups; rows lie group after group."""
        size = self.params.group_size
        captions = [to_caption(self.policy, ids) for ids in completions]
        ids = [row["image_id"] for row in self._rows[::size]]
        return [Group(self.pictures[image_id], captions[i * size : (i + 1) * size]) for i, image_id in enumerate(ids)]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.clock("judge_exposed"):
            self._scored = self.judging.collect()
        return super()._calculate_rewards(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows, self._random = inputs, random_state()
        with self.clock("rest"):
            output = super()._generate_and_score_completions(inputs)
            advantages = self._advantages()
            mine = slice(
                self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs)
            )
            output["advantages"] = torch.from_numpy(advantages[mine]).to(output["advantages"])
        return output

    def _advantages(self) -> Array:
        """Our rule on the rewards of all ranks, float64; measures the batch on the way."""
        size, k = self.params.group_size, len(self.judging.names)
        local = [
            np.column_stack([s.rewards, s.masked, s.words, s.ratio, s.unknown, s.needed, s.quality, s.text])
            for s in self._scored
        ]
        table = (
            self.accelerator.gather(torch.from_numpy(np.concatenate(local)).to(self.accelerator.device)).cpu().numpy()
        )
        rewards, masked = table[:, :k], table[:, k] > 0
        words, ratio, unknown, needed = table[:, k + 1 : k + 5].T
        quality, text = np.split(table[:, k + 5 :], [len(REWARDS)], axis=1)
        failure_rate = float(unknown.sum() / max(needed.sum(), 1.0))
        self._check_judge(failure_rate)
        names = self.judging.names
        weights = np.array([self.params.reward_weights[name] for name in names])  # type: ignore[index]
        linguistic = names.index("linguistic") if "linguistic" in names else None
        advantages = self.rule(rewards, masked, size, weights, linguistic)
        self.measured = batch_metrics(
            names, rewards, masked, words, ratio, text, quality, failure_rate, advantages, size
        )
        return advantages

    def _check_judge(self, failure_rate: float) -> None:
        """Stop above ``judge.max_failure_rate``, before this batch changes the policy, and keep what it learnt."""
        limit = self.params.judge.max_failure_rate
        if failure_rate > limit:
            step = self.state.global_step
            if step and not self._checkpoint(step).exists():  # before the first update the base model is the checkpoint
                set_random_state(self._random)  # the resumed run samples these captions again
                self._save_checkpoint(self.model, None)
            kept = f"checkpoint-{step} is kept" if step else "nothing is lost, no step was finished"
            raise JudgeFailed(
                f"train.judge {self.params.judge.name}: {failure_rate:.1%} of its answers are unknown in step "
                f"{step // self.params.updates_per_step + 1}, train.judge.max_failure_rate is {limit:.1%} "
                f"({self.judging.guard.why()}); {kept}, run again when the judge works"
            )

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
