"""Section ``runtime``: changes no result, and no stage depends on it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from balcap.params.base import Strict


class Serving(Strict):
    """Where a model is served (OpenAI-compatible), and how hard it may be asked."""

    urls: tuple[str, ...] = Field(strict=False, min_length=1)
    """Base addresses that end in /v1; a picture's calls all go to one of them."""
    api_key_env: str | None = Field(min_length=1)
    """Environment variable that holds the key; null where none is asked for."""
    in_flight: PositiveInt
    """Calls under way at once, per process: also the size of the connection pool."""
    timeout: PositiveFloat
    """Seconds for one call, from sending to the last byte."""
    retries: NonNegativeInt
    """Further attempts after 429, 5xx, a timeout or a broken connection."""


class Launch(Strict):
    """How the processes of `train` are started: one per GPU, or with gloo on CPU."""

    nodes: PositiveInt
    """Machines. Above 1 the stage runs on each, and meets the others at MASTER_ADDR and MASTER_PORT."""
    processes: PositiveInt
    """Per machine."""
    deepspeed: Literal["none", "zero1", "zero2", "zero3"]
    """What is sharded over processes: nothing, optimiser state, gradients too, weights too."""
    offload: Literal["none", "optimizer", "parameters"]
    """What DeepSpeed keeps in host memory; `parameters` (zero3) includes the optimiser."""
    collective_timeout: PositiveFloat
    """Seconds after which processes give up waiting for another; at least a minute above `train.judge_deadline`."""

    @property
    def ranks(self) -> int:
        """Processes on all machines."""
        return self.nodes * self.processes

    @model_validator(mode="after")
    def _offload_needs_its_stage(self) -> Launch:
        if self.offload == "parameters" and self.deepspeed != "zero3":
            raise ValueError(f"offload parameters needs deepspeed zero3, it is {self.deepspeed}")
        if self.offload == "optimizer" and self.deepspeed == "none":
            raise ValueError("offload optimizer needs deepspeed zero1, zero2 or zero3, it is none")
        return self


class Rollouts(Strict):
    """vLLM as the sampler of captions."""

    gpu_memory: float | None = Field(gt=0.0, lt=1.0)
    """Share of each GPU that colocated vLLM takes; null with a server, which is told where it is started."""
    tensor_parallel: PositiveInt
    """GPUs that one colocated engine spans; 1 with a server, for the same reason."""
    max_model_length: PositiveInt
    """Longest prompt, picture tokens included, plus caption; with a server, what it was started with."""
    url: str | None = Field(min_length=1)
    """Address of a vLLM server with weight transfer (sampler vllm_server); null when colocated."""


class Runtime(Strict):
    """Section `runtime`."""

    threads: PositiveInt
    """Threads of torch per process; results are identical for equal numbers of threads."""
    workers: PositiveInt
    """Processes that decode and resize images."""
    tracking_uri: str | None = Field(min_length=1)
    """MLflow server; null is the local store under mlruns/. MLFLOW_TRACKING_URI goes before it."""
    train_python: str | None = Field(min_length=1)
    """Interpreter of `train`, relative to the main checkout or absolute; null is the one that runs the stages."""
    launch: Launch
    rollouts: Rollouts | None
    """null with `train.sampler` transformers."""
    serving: dict[str, Serving]
    """By model name; a judge or writer that is a language model is looked up here."""
