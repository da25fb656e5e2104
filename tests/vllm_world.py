"""A trainer whose colocated vLLM is a record of what is loaded into it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import train_world as world
from accelerate.utils import set_seed
from runtime_world import ALONE
from trainer_world import trainer_of
from trl.generation.vllm_generation import VLLMGeneration

from balcap.params.runtime import Launch, Rollouts
from balcap.policy.generate import forbidden_tokens
from balcap.policy.store import load_policy
from balcap.training.config import grpo_config
from balcap.training.trainer import CaptionTrainer


class Engine:
    """Keeps what is loaded into it, where TRL looks for a colocated engine's model."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, torch.Tensor]] = []
        self.forgot: list[str] = []
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(
            model_executor=SimpleNamespace(driver_worker=worker),
            reset_encoder_cache=lambda: self.forgot.append("features"),
        )

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.loaded += [(name, tensor.clone()) for name, tensor in weights]

    def reset_prefix_cache(self) -> None:
        self.forgot.append("prompts")


def start(self: VLLMGeneration) -> None:
    """In place of ``_init_vllm``; like vLLM's worker in this process it lets all generators begin anew."""
    self.llm = Engine()
    set_seed(self.accelerator.process_index // self.tensor_parallel_size)


def trainer(base: Path, work: Path, parallel: int = 1, **changes: Any) -> CaptionTrainer:
    """Of the captioner ``base``; ``VLLMGeneration._init_vllm`` must be :func:`start`. Its judging is to be closed."""
    params = world.settings(sampler="vllm_colocate", frozen=[], **changes)
    rollouts = Rollouts(gpu_memory=0.3, tensor_parallel=parallel, max_model_length=2048, url=None)
    policy = load_policy(base)
    config = grpo_config(params, work, forbidden_tokens(policy), Launch.model_validate(ALONE), rollouts)
    return trainer_of(policy, params, config, train=4)


def learn(found: CaptionTrainer) -> None:
    """Move everything that is trained a little."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in found.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
