"""Combinations of ``train`` and ``runtime`` that cannot work, found before anything starts.

ranks = runtime.launch.nodes * runtime.launch.processes
captions per update and rank = global_batch_size / (updates_per_step * ranks)
"""

from __future__ import annotations

from balcap.params.runtime import Runtime
from balcap.params.train import Train


def launch_faults(train: Train, runtime: Runtime) -> list[str]:
    """One sentence for each impossible combination; empty when all fits."""
    return [*_batch(train, runtime.launch.ranks), *_deadlines(train, runtime), *_sampler(train, runtime)]


def _batch(train: Train, ranks: int) -> list[str]:
    batch, update = train.global_batch_size, train.global_batch_size // train.updates_per_step
    found = []
    if batch % (ranks * train.group_size):
        found.append(
            f"train.global_batch_size ({batch}) must be a multiple of {ranks} ranks (runtime.launch) times "
            f"train.group_size ({train.group_size}), so that no group spans two ranks"
        )
    if update % (ranks * train.micro_batch_size):
        found.append(
            f"train.global_batch_size / train.updates_per_step ({update}) must be a multiple of {ranks} ranks "
            f"(runtime.launch) times train.micro_batch_size ({train.micro_batch_size})"
        )
    return found


def _deadlines(train: Train, runtime: Runtime) -> list[str]:
    limit = runtime.launch.collective_timeout
    if train.judge_deadline < limit:
        return []
    return [
        f"train.judge_deadline ({train.judge_deadline:g} s) must be below runtime.launch.collective_timeout "
        f"({limit:g} s): a slow judge would end the whole job instead of one step's unknown verdicts"
    ]


def _sampler(train: Train, runtime: Runtime) -> list[str]:
    rollouts, launch = runtime.rollouts, runtime.launch
    if train.sampler == "transformers":
        return ["runtime.rollouts must be null with train.sampler transformers"] if rollouts else []
    if rollouts is None:
        return [f"train.sampler {train.sampler} needs runtime.rollouts"]
    if (rollouts.url is None) == (train.sampler == "vllm_server"):
        return ["runtime.rollouts.url must be an address with train.sampler vllm_server, and null with vllm_colocate"]
    if launch.processes % rollouts.tensor_parallel:
        return [
            f"runtime.rollouts.tensor_parallel ({rollouts.tensor_parallel}) must divide runtime.launch.processes "
            f"({launch.processes})"
        ]
    return []
