"""``runtime.launch`` as DeepSpeed's configuration: what is sharded over ranks, what is kept in host memory.

    config = deepspeed_config(params, launch)      # for GRPOConfig(deepspeed=...); None without DeepSpeed
    check_engine(trainer, launch)                  # the trainer really uses it

With ``train.precision`` bfloat16 weights are bfloat16 and DeepSpeed keeps float32 masters of them. Gradients of several
micro-batches are added in float32, else what is small beside the sum would be lost; only zero1 adds bfloat16. The
optimiser is torch's AdamW everywhere, so that a CPU needs no compiler and a GPU gives what it gives without DeepSpeed.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from balcap.params.runtime import Launch
from balcap.params.train import Train
from balcap.training.data import TrainingError

MISMATCH = "Gradient accumulation steps mismatch"
"""Accelerate's warning: of two numbers the one counts that TRL's arguments say, as it should."""
logging.getLogger("accelerate.accelerator").addFilter(lambda record: MISMATCH not in str(record.msg))
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}


def deepspeed_config(params: Train, launch: Launch) -> dict[str, Any] | None:
    """The JSON of DeepSpeed; what TRL's arguments say already is ``auto``. ``None`` for stage none."""
    if launch.deepspeed == "none":
        return None
    zero: dict[str, Any] = {"stage": STAGES[launch.deepspeed]}
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if launch.offload != "none":
        zero["offload_optimizer"] = host
    if launch.offload == "parameters":
        zero["offload_param"] = host
    if launch.deepspeed == "zero3":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    config: dict[str, Any] = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    # Under zero1 this would take another optimiser, of which no rank's part can be kept (``shards.py``).
    if params.precision == "bfloat16" and launch.deepspeed != "zero1":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def weights_dtype(params: Train, launch: Launch) -> torch.dtype:
    """Of the captioner as it is loaded: DeepSpeed trains bfloat16 weights, otherwise autocast leaves float32 ones."""
    half = params.precision == "bfloat16" and launch.deepspeed != "none"
    return torch.bfloat16 if half else torch.float32


def check_deepspeed(params: Train, launch: Launch) -> None:
    """Raise :class:`TrainingError` for what DeepSpeed cannot do on this machine."""
    if launch.deepspeed != "none" and params.precision == "bfloat16" and not torch.cuda.is_available():
        raise TrainingError(
            f"train.precision bfloat16 with runtime.launch.deepspeed {launch.deepspeed} needs a GPU; "
            "take float32, or deepspeed none"
        )


def plain_loading() -> None:
    """From now on captioners are read whole: under ZeRO-3 transformers spreads whatever is read over the ranks."""
    unset_hf_deepspeed_config()


def check_engine(trainer: Any, launch: Launch) -> None:
    """Raise ``RuntimeError`` if DeepSpeed was asked for and is not used: on CPU it may be ignored without a word."""
    used = trainer.accelerator.distributed_type
    if (launch.deepspeed != "none") != (used == DistributedType.DEEPSPEED):
        raise RuntimeError(f"runtime.launch.deepspeed is {launch.deepspeed}, but the trainer would run as {used}")
