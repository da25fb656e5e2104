"""Does it fit, and if not, which setting to change: settings are tried one after another, each with those before it.

for fault in faults(planner, params): ...      # empty when it fits
"""

from __future__ import annotations

from typing import Any

from balcap.params import Params
from balcap.params.runtime import Launch
from balcap.params.train import Lora
from balcap.plan.memory import Need, Planner

GB = 1e9
LORA = Lora(rank=16, alpha=32, dropout=0.05, targets=("q_proj", "k_proj", "v_proj", "o_proj"))


def changed(params: Params, train: dict[str, Any] | None = None, launch: dict[str, Any] | None = None) -> Params:
    """Parameters with some keys of ``train`` and of ``runtime.launch`` replaced."""
    runtime = params.runtime.model_copy(update={"launch": params.runtime.launch.model_copy(update=launch or {})})
    return params.model_copy(update={"train": params.train.model_copy(update=train or {}), "runtime": runtime})


def stages(launch: Launch) -> list[Launch]:
    """The launch with each ZeRO stage, and the offload that the stage can do."""
    found = []
    for stage in ("none", "zero1", "zero2", "zero3"):
        offload = "none" if stage == "none" else launch.offload
        if offload == "parameters" and stage != "zero3":
            offload = "optimizer"
        found.append(launch.model_copy(update={"deepspeed": stage, "offload": offload}))
    return found


def faults(planner: Planner, params: Params) -> list[str]:
    """Why it does not fit, with what to change; empty when it does."""
    found = _engine(planner, params)
    need = planner.need(params)
    if need.peak > planner.gpu:
        found.append(f"{_why(planner, params, need)}: {_advice(planner, params)}")
    return found


def _why(planner: Planner, params: Params, need: Need) -> str:
    shape, there = planner.shape(params), f"{planner.gpu / GB:.3g} GB there"
    whole = "LoRA training" if params.train.lora else "full fine-tuning"
    if need.states > planner.gpu:
        return (
            f"{whole} of {shape.total / 1e9:.1f} B parameters needs {need.states / GB:.3g} GB on each GPU for weights, "
            f"gradients and optimiser alone, {there}"
        )
    moment, most = max(need.moments.items(), key=lambda item: item[1])
    return (
        f"{whole} of {shape.total / 1e9:.1f} B parameters needs {most / GB:.3g} GB on each GPU in its part "
        f"{moment!r} (weights, gradients and optimiser {need.states / GB:.3g} GB of it), {there}"
    )


def _advice(planner: Planner, params: Params) -> str:
    """The first row of changes that fits, and the first with LoRA if that row has none."""
    full = _first_fit(planner, params, _steps(params))
    if params.train.lora:
        return full or NOTHING
    adapters: Step = ("train.lora (rank 16)", {"lora": LORA}, {})
    with_lora = _first_fit(planner, params, [adapters, *_steps(params)])
    return ", or ".join(way for way in (full, with_lora) if way) or NOTHING


Step = tuple[str, dict[str, Any], dict[str, Any]]
NOTHING = "no setting makes it fit; take GPUs with more memory, or more of them (--gpus), or a smaller captioner"


def _steps(params: Params) -> list[Step]:
    """Changes by what they cost: nothing of the result changes, later ones are slower."""
    train, launch, found = params.train, params.runtime.launch, list[Step]()
    if train.sampler == "transformers":
        words = "train.sampler: vllm_server with runtime.rollouts (another GPU writes the captions)"
        found.append((words, {"sampler": "vllm_server"}, {}))
    if train.precision == "bfloat16" and launch.deepspeed == "none":
        found.append(("runtime.launch.deepspeed: zero2", {}, {"deepspeed": "zero2"}))
    if not train.gradient_checkpointing:
        found.append(("train.gradient_checkpointing: true", {"gradient_checkpointing": True}, {}))
    if train.micro_batch_size > 1:
        found.append(("train.micro_batch_size: 1", {"micro_batch_size": 1}, {}))
    if launch.ranks > 1:
        found += [(f"runtime.launch.deepspeed: {s}", {}, {"deepspeed": s}) for s in ("zero2", "zero3")]
    for stage, offload in (("zero2", "optimizer"), ("zero3", "parameters")):
        words = f"runtime.launch.deepspeed: {stage} with runtime.launch.offload: {offload}"
        found.append((words, {}, {"deepspeed": stage, "offload": offload}))
    return found


def _first_fit(planner: Planner, params: Params, steps: list[Step]) -> str:
    """The single change that makes it fit; otherwise the shortest row of them, useless ones left out."""
    for words, train, launch in steps:
        if _fits(planner, changed(params, train, launch)):
            return f"set {words}"
    row: list[Step] = []
    for step in steps:
        row = [kept for kept in row if not step[2] or not kept[2]] + [step]
        if _fits(planner, _all(params, row)):
            return "set " + ", ".join(words for words, _, _ in _shortest(planner, params, row))
    return ""


def _shortest(planner: Planner, params: Params, row: list[Step]) -> list[Step]:
    """A row that fits, without what it does not need."""
    for one in row:
        fewer = [other for other in row if other is not one]
        row = fewer if _fits(planner, _all(params, fewer)) else row
    return row


def _all(params: Params, row: list[Step]) -> Params:
    for _, train, launch in row:
        params = changed(params, train, launch)
    return params


def _fits(planner: Planner, params: Params) -> bool:
    return planner.need(params).peak <= planner.gpu


def _engine(planner: Planner, params: Params) -> list[str]:
    """Whether vLLM's share holds the weights and one caption of greatest length."""
    rollouts, found = params.runtime.rollouts, planner.shape(params)
    if params.train.sampler != "vllm_colocate" or rollouts is None:
        return []
    weights = 2.0 * found.total / rollouts.tensor_parallel
    longest = 4.0 * found.layers * found.kv * rollouts.max_model_length / rollouts.tensor_parallel
    share = rollouts.gpu_memory * planner.gpu
    if planner.tokens(params) > rollouts.max_model_length:
        return [
            f"a prompt with its picture and the longest caption are {planner.tokens(params)} tokens: set "
            f"runtime.rollouts.max_model_length (now {rollouts.max_model_length}) to at least that, or "
            "train.sampling.max_new_tokens or prepare.images.size lower"
        ]
    if weights + longest > share:
        least = (weights + longest) / planner.gpu
        return [
            f"vLLM needs {(weights + longest) / GB:.3g} GB for weights and one caption, {share / GB:.3g} GB are its "
            f"share: set runtime.rollouts.gpu_memory (now {rollouts.gpu_memory:g}) above {least:.2f}"
        ]
    return []
