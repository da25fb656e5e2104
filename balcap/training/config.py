"""``params.train`` as TRL's configuration.

captions per generation phase = global_batch_size = micro_batch_size x ranks x steps_per_generation
optimiser steps per phase     = updates_per_step  = steps_per_generation / gradient_accumulation_steps
"""

from __future__ import annotations

from pathlib import Path

import torch
from trl import GRPOConfig

from balcap.params.train import Train
from balcap.training.data import TrainingError


def steps_per_generation(params: Train, ranks: int) -> int:
    """Micro-batches per phase and rank; raises :class:`TrainingError` where a group would span two ranks."""
    if params.global_batch_size % (ranks * params.group_size):
        raise TrainingError(
            f"train.global_batch_size ({params.global_batch_size}) must be a multiple of {ranks} ranks times "
            f"train.group_size ({params.group_size}), so that no group spans two ranks"
        )
    per_update = params.global_batch_size // params.updates_per_step
    if per_update % (ranks * params.micro_batch_size):
        raise TrainingError(
            f"train.global_batch_size / train.updates_per_step ({per_update}) must be a multiple of {ranks} ranks "
            f"times train.micro_batch_size ({params.micro_batch_size})"
        )
    return params.global_batch_size // (ranks * params.micro_batch_size)


def grpo_config(params: Train, work: Path, suppress_tokens: list[int], ranks: int = 1) -> GRPOConfig:
    """Arguments of ``GRPOTrainer``. Its own reporting, progress bars and image logging are off: ours replaces them."""
    phases = steps_per_generation(params, ranks)
    opt, loss, sampling = params.optimizer, params.loss, params.sampling
    return GRPOConfig(
        output_dir=str(work),
        max_steps=params.steps * params.updates_per_step,
        per_device_train_batch_size=params.micro_batch_size,
        steps_per_generation=phases,
        gradient_accumulation_steps=phases // params.updates_per_step,
        num_generations=params.group_size,
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
        generation_kwargs={"suppress_tokens": suppress_tokens},
        gradient_checkpointing=params.gradient_checkpointing,
        bf16=params.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=params.seed,
        data_seed=params.seed,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=params.updates_per_step,
        save_strategy="steps",
        save_steps=params.save_every * params.updates_per_step,
        report_to="none",
        disable_tqdm=True,
        log_completions=False,
        log_multimodal=False,
    )
