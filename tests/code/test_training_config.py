"""Parameters as the arguments of TRL, vLLM and DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world
from runtime_world import ALONE

from balcap.params.runtime import Launch, Rollouts
from balcap.training.config import grpo_config
from balcap.training.data import TrainingError
from balcap.training.deepspeed import check_engine, deepspeed_config, weights_dtype

ROLLOUTS: dict[str, Any] = {"gpu_memory": 0.4, "tensor_parallel": 2, "max_model_length": 2048, "url": None}
SERVER = {"gpu_memory": None, "tensor_parallel": 1, "url": "http://127.0.0.1:8000"}


def launch(**changes: Any) -> Launch:
    return Launch.model_validate({**ALONE, **changes})


def test_colocated_vllm_gets_its_share_and_never_samples_placeholders(tmp_path: Path) -> None:
    rollouts = Rollouts.model_validate(ROLLOUTS)
    config = grpo_config(world.settings(sampler="vllm_colocate"), tmp_path, [3, 7], launch(), rollouts)
    assert config.use_vllm and config.vllm_mode == "colocate"
    assert (config.vllm_gpu_memory_utilization, config.vllm_max_model_length) == (0.4, 2048)
    assert config.vllm_tensor_parallel_size == 2
    assert config.vllm_importance_sampling_correction and config.vllm_importance_sampling_mode == "token_truncate"
    assert config.generation_kwargs == {"logit_bias": {3: -100.0, 7: -100.0}}


def test_a_vllm_server_is_found_at_its_address(tmp_path: Path) -> None:
    rollouts = Rollouts.model_validate(ROLLOUTS | SERVER)
    config = grpo_config(world.settings(sampler="vllm_server"), tmp_path, [3], launch(), rollouts)
    assert config.use_vllm and config.vllm_mode == "server"
    assert config.vllm_server_base_url == "http://127.0.0.1:8000"
    assert config.generation_kwargs == {"logit_bias": {3: -100.0}}


def test_transformers_suppresses_placeholders(tmp_path: Path) -> None:
    config = grpo_config(world.settings(), tmp_path, [3, 7])
    assert not config.use_vllm and config.generation_kwargs == {"suppress_tokens": [3, 7]}
    assert config.ddp_timeout == 1800


@pytest.mark.parametrize(
    ("stage", "offload", "expected"),
    [
        ("zero1", "none", (1, None, None)),
        ("zero2", "optimizer", (2, "cpu", None)),
        ("zero3", "none", (3, None, None)),
        ("zero3", "parameters", (3, "cpu", "cpu")),
    ],
)
def test_deepspeed_reads_every_stage(stage: str, offload: str, expected: tuple[Any, ...]) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    config = deepspeed_config(world.settings(), launch(deepspeed=stage, offload=offload))
    assert config is not None
    read = DeepSpeedZeroConfig(**config["zero_optimization"])
    devices = [part and part.device for part in (read.offload_optimizer, read.offload_param)]
    assert (int(read.stage), *devices) == expected
    assert read.gather_16bit_weights_on_model_save == (stage == "zero3")


@pytest.mark.parametrize(("stage", "summed"), [("zero1", None), ("zero2", "fp32"), ("zero3", "fp32")])
def test_gradients_of_half_precision_are_summed_in_float32(stage: str, summed: str | None) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    for precision, expected in (("bfloat16", summed), ("float32", None)):
        config = deepspeed_config(world.settings(precision=precision), launch(deepspeed=stage))
        assert config is not None
        sizes = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2}
        fixed = {**config, **sizes, "gradient_clipping": 1.0, "bf16": {"enabled": precision == "bfloat16"}}
        assert DeepSpeedConfig(fixed).grad_accum_dtype == expected


def test_without_deepspeed_there_is_no_configuration() -> None:
    assert deepspeed_config(world.settings(), launch()) is None


def test_weights_are_halved_for_deepspeed_alone() -> None:
    half = world.settings(precision="bfloat16")
    assert weights_dtype(half, launch()) == weights_dtype(world.settings(), launch(deepspeed="zero2")) == torch.float32
    assert weights_dtype(half, launch(deepspeed="zero2")) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do it")
def test_half_precision_under_deepspeed_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"train\.precision bfloat16 .*deepspeed zero2 needs a GPU"):
        grpo_config(world.settings(precision="bfloat16"), tmp_path, [3], launch(deepspeed="zero2"))


def test_deepspeed_that_is_left_out_is_noticed() -> None:
    class Plain:
        class accelerator:
            distributed_type = "MULTI_CPU"

    check_engine(Plain, launch())
    with pytest.raises(RuntimeError, match="deepspeed is zero2, but the trainer would run as MULTI_CPU"):
        check_engine(Plain, launch(deepspeed="zero2"))
