"""``params.train`` as TRL's configuration.

captions per generation phase = global_batch_size = micro_batch_size x ranks x steps_per_generation
optimiser steps per phase     = updates_per_step  = steps_per_generation / gradient_accumulation_steps
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from balcap import rewards
from balcap.params.launch import batch_faults
from balcap.params.runtime import Launch, Rollouts
from balcap.params.train import Train
from balcap.training.data import TrainingError
from balcap.training.deepspeed import check_deepspeed, deepspeed_config

ONE_PROCESS = Launch(nodes=1, processes=1, deepspeed="none", offload="none", collective_timeout=1800.0)
"""Training in the process that asks for it."""


def steps_per_generation(params: Train, ranks: int) -> int:
    """Micro-batches per phase and rank; raises :class:`TrainingError` where ranks cannot share them evenly."""
    if faults := batch_faults(params, ranks):
        raise TrainingError("; ".join(faults))
    return params.global_batch_size // (ranks * params.micro_batch_size)


def grpo_config(
    params: Train,
    work: Path,
    forbidden: list[int],
    launch: Launch = ONE_PROCESS,
    rollouts: Rollouts | None = None,
) -> GRPOConfig:
    """Arguments of ``GRPOTrainer``. Its own reporting, progress bars and image logging are off: ours replaces them."""
    check_deepspeed(params, launch)
    phases = steps_per_generation(params, launch.ranks)
    names = rewards.names(params.reward_weights)
    opt, loss, sampling = params.optimizer, params.loss, params.sampling
    deepspeed = deepspeed_config(params, launch)
    return GRPOConfig(
        output_dir=str(work),
        max_steps=params.steps * params.updates_per_step,
        per_device_train_batch_size=params.micro_batch_size,
        steps_per_generation=phases,
        gradient_accumulation_steps=phases // params.updates_per_step,
        num_generations=params.group_size,
        reward_weights=[params.reward_weights[name] for name in names],  # type: ignore[index]
        shuffle_dataset=False,  # the data set stands in the order of training
        learning_rate=opt.learning_rate,
        adam_beta1=opt.betas[0],
        adam_beta2=opt.betas[1],
        weight_decay=opt.weight_decay,
        warmup_steps=opt.warmup_steps,
        lr_scheduler_type=opt.schedule,
        max_grad_norm=opt.max_grad_norm,
        loss_type=loss.type,
        epsilon=loss.clip_low,
        epsilon_high=loss.clip_high,
        beta=loss.kl,
        entropy_coef=loss.entropy,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_completion_length=sampling.max_new_tokens,
        **_sampler(params, rollouts, forbidden),
        gradient_checkpointing=params.gradient_checkpointing,
        bf16=params.precision == "bfloat16",
        deepspeed=deepspeed,
        # The process group exists already (ranks.join); under DeepSpeed the trainer would not find it on CPU.
        accelerator_config={"use_configured_state": deepspeed is not None},
        ddp_timeout=int(launch.collective_timeout),
        use_cpu=not torch.cuda.is_available() and deepspeed is None,
        seed=params.seed,
        data_seed=params.seed,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=params.updates_per_step,
        save_strategy="steps",
        save_steps=params.save_every * params.updates_per_step,
        report_to="none",
        disable_tqdm=True,
        logging_nan_inf_filter=False,  # it would hide what ``survival.py`` ends a run for
        log_completions=False,
        log_multimodal=False,
    )


def _sampler(params: Train, rollouts: Rollouts | None, forbidden: list[int]) -> dict[str, Any]:
    """Who writes the captions, and how ``forbidden`` tokens (placeholders of pictures) are kept from being drawn.

    One of them in a caption ends the run: placeholders and picture features no longer match.
    """
    if params.sampler == "transformers":
        return {"generation_kwargs": {"suppress_tokens": forbidden}}
    if rollouts is None:
        raise TrainingError(f"train.sampler {params.sampler} needs runtime.rollouts")
    mode: dict[str, Any] = {"vllm_mode": "server", "vllm_server_base_url": rollouts.url}
    if params.sampler == "vllm_colocate":
        mode = {
            "vllm_mode": "colocate",
            "vllm_gpu_memory_utilization": rollouts.gpu_memory,
            "vllm_max_model_length": rollouts.max_model_length,
            "vllm_tensor_parallel_size": rollouts.tensor_parallel,
        }
    return {
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        # A sequence mask drops whole captions of some hundred tokens; this one cuts single ratios.
        "vllm_importance_sampling_mode": "token_truncate",
        "generation_kwargs": {"logit_bias": dict.fromkeys(forbidden, -100.0)},
        **mode,
    }
