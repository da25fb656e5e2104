"""Combinations of ``train`` and ``runtime`` that cannot work, found before anything starts.

ranks = runtime.launch.nodes * runtime.launch.processes
captions per update and rank = global_batch_size / (updates_per_step * ranks)
judge_deadline + MARGIN <= collective_timeout       else a slow judge ends the job, not one step's verdicts
"""

from __future__ import annotations

from balcap.params.runtime import Launch, Rollouts, Runtime
from balcap.params.train import Train

MARGIN = 60.0
"""Seconds that a rank may come later to a collective operation than its judge's deadline says: judging that is given up
has some seconds to end (``llm.background.GRACE``), and ranks do not begin to judge at the same moment.
"""


def launch_faults(train: Train, runtime: Runtime) -> list[str]:
    """One sentence for each impossible combination; empty when all fits."""
    return [*batch_faults(train, runtime.launch.ranks), *_deadlines(train, runtime), *_sampler(train, runtime)]


def batch_faults(train: Train, ranks: int) -> list[str]:
    """Why ``ranks`` processes cannot share out a phase's captions evenly, groups whole."""
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
    if train.judge_deadline + MARGIN <= limit:
        return []
    return [
        f"train.judge_deadline ({train.judge_deadline:g} s) must be at least {MARGIN:g} s below "
        f"runtime.launch.collective_timeout ({limit:g} s): a slow judge would end the whole job "
        "instead of leaving one step's verdicts unknown"
    ]


def _sampler(train: Train, runtime: Runtime) -> list[str]:
    rollouts = runtime.rollouts
    if train.sampler == "transformers":
        return ["runtime.rollouts must be null with train.sampler transformers"] if rollouts else []
    if rollouts is None:
        return [f"train.sampler {train.sampler} needs runtime.rollouts"]
    if train.sampling.top_p < 1.0 or train.sampling.top_k:
        return [
            f"train.sampling.top_p ({train.sampling.top_p:g}) must be 1 and top_k ({train.sampling.top_k}) 0 with "
            f"train.sampler {train.sampler}: vLLM tells the probabilities of a truncated draw, and they bias the "
            "importance weights; sample with transformers, or not truncated"
        ]
    if rollouts.max_model_length <= train.sampling.max_new_tokens:
        return [
            f"runtime.rollouts.max_model_length ({rollouts.max_model_length}) must be above "
            f"train.sampling.max_new_tokens ({train.sampling.max_new_tokens}): the prompt has to fit, too"
        ]
    return _server(rollouts) if train.sampler == "vllm_server" else _colocated(rollouts, runtime.launch)


def _server(rollouts: Rollouts) -> list[str]:
    if rollouts.url is None:
        return ["runtime.rollouts.url must be an address with train.sampler vllm_server"]
    if rollouts.gpu_memory is not None or rollouts.tensor_parallel != 1:
        return [
            f"runtime.rollouts.gpu_memory ({rollouts.gpu_memory}) must be null and tensor_parallel "
            f"({rollouts.tensor_parallel}) 1 with train.sampler vllm_server: a server has both from where it is started"
        ]
    return []


def _colocated(rollouts: Rollouts, launch: Launch) -> list[str]:
    if rollouts.url is not None or rollouts.gpu_memory is None:
        return ["runtime.rollouts.url must be null and gpu_memory a share with train.sampler vllm_colocate"]
    if launch.processes % rollouts.tensor_parallel:
        return [
            f"runtime.rollouts.tensor_parallel ({rollouts.tensor_parallel}) must divide runtime.launch.processes "
            f"({launch.processes})"
        ]
    return []
