"""TRL's ``GRPOTrainer`` (1.16) with our judging, rewards and advantages; each overridden method is pinned by a test.

    captions -> judging starts at once, overlapping TRL's own work -> gathered rewards -> our advantage rule

- ``_generate_single_turn``: hands the captions to the judge as soon as they exist; colocated vLLM gets one placeholder
  per picture, because it expands them again (trl#6294).
- ``_calculate_rewards``: waits for the judge; TRL then reads the columns and logs them. Takes the pictures out of the
  prompts, which TRL pickles and sends to every rank afterwards. (A vLLM server is spoken to by the first rank alone,
  and gets its pictures from there: with it they travel once per generation.)
- ``_generate_and_score_completions``: replaces TRL's advantages by our rule's, measures the batch, stops the run in a
  controlled way when the judge fails too often.
- ``training_step``: timed, and the entropy that TRL measures is kept.
- ``_get_per_token_logps_and_entropies``: timed, nothing else.
- What concerns checkpoints is in ``checkpoint.py``, what concerns vLLM in ``engine.py``, how a run ends early in
  ``stopping.py``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig

from balcap.advantages import make_rule
from balcap.advantages.base import Array
from balcap.judge.guard import in_words
from balcap.params.train import Train
from balcap.policy.generate import to_caption
from balcap.policy.lora import lora_config
from balcap.policy.store import Policy
from balcap.records import Picture
from balcap.rewards import REWARDS
from balcap.training.clock import Clock
from balcap.training.engine import fit, greeting
from balcap.training.judging import Group, Judging, Scored
from balcap.training.metrics import ENTROPY, batch_metrics, importance_metrics
from balcap.training.stopping import Ended
from balcap.training.survival import Surviving

UNKNOWN = "All reward functions returned None"
"""TRL's warning about a caption of which nothing is known; it prints the caption, and advises what is wrong here."""
logging.getLogger("trl.trainer.grpo_trainer").addFilter(lambda record: UNKNOWN not in str(record.msg))


class JudgeFailed(Ended):
    """More of the judge's answers are unknown than the run accepts; a checkpoint was written."""


class CaptionTrainer(Surviving):
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
        self.params, self.judging = params, judging
        self.pictures = pictures
        self.rule = make_rule(params.advantage, judging.names)
        self.clock = Clock()
        self.measured: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._scored: list[Scored] = []
        with greeting(args.vllm_server_base_url, args.ddp_timeout):
            super().__init__(
                policy,
                reward_funcs=[self._column(k, name) for k, name in enumerate(judging.names)],
                args=args,
                train_dataset=train_dataset,
                peft_config=lora_config(policy.model, params.lora, params.frozen),
                callbacks=callbacks,
            )
        self.remove_callback(PrinterCallback)
        if self.use_vllm:
            fit(self.vllm_generation, params.seed, args.ddp_timeout)

    def _column(self, k: int, name: str) -> Callable[..., list[float | None]]:
        """The reward of that name as TRL wants it: a function that returns a list, unknown as ``None``."""

        def column(**_: Any) -> list[float | None]:
            values = np.concatenate([scored.rewards[:, k] for scored in self._scored])
            return [None if np.isnan(value) else float(value) for value in values]

        column.__name__ = name
        return column

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.clock("update"):
            loss = super().training_step(*args, **kwargs)
        entropies = self._metrics["train"]["entropy"]  # of the micro-steps since TRL logged, that is of this phase
        self.measured[ENTROPY] = sum(entropies) / len(entropies)
        return loss

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        with nullcontext() if torch.is_grad_enabled() else self.clock("logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: list[Any] | None,
        multimodal_fields: dict[str, Any],
        num_generations: int,
        has_tool_images: bool = False,
    ) -> Any:
        if images is not None and self.use_vllm and self.vllm_mode == "colocate":
            prompt_ids = [collapse_runs(ids, self.policy.model.config.image_token_id) for ids in prompt_ids]
        with self.clock("generate"):
            completions, logps = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, has_tool_images
            )
        self.stop_if_asked()
        self.judging.dispatch(self._groups(completions))
        return completions, logps

    def _groups(self, completions: list[list[int]]) -> list[Group]:
        """Token ids of this rank's captions as groups; rows lie group after group."""
        size = self.params.group_size
        captions = [to_caption(self.policy, ids) for ids in completions]
        ids = [row["image_id"] for row in self._rows[::size]]
        return [Group(self.pictures[image_id], captions[i * size : (i + 1) * size]) for i, image_id in enumerate(ids)]

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> torch.Tensor:
        with self.clock("judge_exposed"):
            self._scored = self.sigterm.cut(self.judging.collect) or []
        self.stop_if_asked()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        prompts[:] = [row["prompt"] for row in inputs]
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = inputs
        self.phase_begins()
        with self.clock("rest"):
            output = super()._generate_and_score_completions(inputs)
            advantages = self._advantages()
            mine = slice(
                self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs)
            )
            output["advantages"] = torch.from_numpy(advantages[mine]).to(output["advantages"])
            self.measured |= importance_metrics(*self._importance(output).tolist())
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

    def _importance(self, output: dict[str, Any]) -> torch.Tensor:
        """How many importance weights of vLLM's captions, over all ranks, are zero, at a limit, and any; [3]."""
        weights = output.get("importance_sampling_ratio")  # [N, 1] or [N, tokens]; absent without vLLM
        if weights is None:
            return torch.zeros(3)
        if weights.shape == output["completion_mask"].shape:
            weights = weights[output["completion_mask"].bool()]
        zero, low, high = weights == 0.0, self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        limit = ~zero & ((weights <= (low or 0.0)) | (weights >= (torch.inf if high is None else high)))
        counts = torch.tensor([[zero.sum(), limit.sum(), weights.numel()]], device=weights.device)
        return self.accelerator.gather(counts).sum(dim=0)

    def _check_judge(self, failure_rate: float) -> None:
        """Stop above ``judge.max_failure_rate``, before this batch changes the policy, and keep what it learnt."""
        limit = self.params.judge.max_failure_rate
        if failure_rate > limit:
            step = self.state.global_step
            why = in_words(sum(gather_object([self.judging.guard.all_reasons()]), Counter()))
            kept = self.checkpoint_now()
            raise JudgeFailed(
                f"train.judge {self.params.judge.name}: {failure_rate:.1%} of its answers are unknown in step "
                f"{step // self.params.updates_per_step + 1}, train.judge.max_failure_rate is {limit:.1%} "
                f"({why}); {kept}, run again when the judge works"
            )


def collapse_runs(ids: Sequence[int], token: int) -> list[int]:
    """Keep one of each run of ``token``: the processor wrote one per patch, vLLM expects one per picture."""
    return [id_ for id_, run in groupby(ids) for id_ in ([id_] if id_ == token else run)]
