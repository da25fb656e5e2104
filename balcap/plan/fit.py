"""Does it fit, and if not, which setting to change: settings are tried one after another, each with those before it.

for fault in faults(planner, params): ...      # empty when it fits
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from balcap.params import Params
from balcap.params.runtime import Launch
from balcap.params.train import Lora, Train
from balcap.plan.memory import Need, Planner, engine_share

GB = 1e9
ENGINE_ROOM = 0.05
"""Share of a GPU for what vLLM computes with, and for more than one caption."""
SERVER = "train.sampler: vllm_server with runtime.rollouts (another GPU writes the captions; it draws by itself)"
LORA = Lora(rank=16, alpha=32, dropout=0.05, targets=("q_proj", "k_proj", "v_proj", "o_proj"))


def changed(
    params: Params,
    train: dict[str, Any] | None = None,
    launch: dict[str, Any] | None = None,
    rollouts: dict[str, Any] | None = None,
) -> Params:
    """Parameters with some keys of ``train``, ``runtime.launch`` and ``runtime.rollouts`` replaced.

    Raises ``ValidationError`` for a launch that cannot be.
    """
    runtime = params.runtime
    update: dict[str, Any] = {"launch": Launch.model_validate(runtime.launch.model_dump() | (launch or {}))}
    if runtime.rollouts and rollouts:
        update["rollouts"] = runtime.rollouts.model_copy(update=rollouts)
    return params.model_copy(
        update={"train": params.train.model_copy(update=train or {}), "runtime": runtime.model_copy(update=update)}
    )


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
    found = _length(planner, params) + _engine(planner, params)
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
    full = _first_fit(planner, params, _steps(planner, params))
    if params.train.lora:
        return full or NOTHING
    adapters = Step("train.lora (rank 16)", train={"lora": LORA})
    with_lora = _first_fit(planner, params, [adapters, *_steps(planner, params)])
    ways = [full, with_lora if adapters.words in with_lora else ""]
    return ", or ".join(way for way in ways if way) or NOTHING


@dataclass(frozen=True)
class Step:
    """A change in words, and the keys of each section that it sets."""

    words: str
    train: dict[str, Any] = field(default_factory=dict)
    launch: dict[str, Any] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)

    def of(self, params: Params) -> Params:
        """The parameters, changed; raises ``ValidationError`` where they allow no such change."""
        return changed(params, self.train, self.launch, self.rollouts)


NOTHING = "none of the settings tried makes it fit; take larger GPUs, or more of them (--gpus), or a smaller captioner"


def _steps(planner: Planner, params: Params) -> list[Step]:
    """Changes by what they cost: later ones are slower. None changes what the result means, but a server draws captions
    by itself, and the size of micro-batches enters some losses: their words say so.
    """
    train, launch, found = params.train, params.runtime.launch, list[Step]()
    if share := _share(planner, params):
        found.append(Step(f"runtime.rollouts.gpu_memory: {share:g}", rollouts={"gpu_memory": share}))
    if train.sampler == "transformers":
        found.append(Step(SERVER, train={"sampler": "vllm_server"}))
    if train.precision == "bfloat16" and launch.deepspeed == "none":
        found.append(Step("runtime.launch.deepspeed: zero2", launch={"deepspeed": "zero2"}))
    if not train.gradient_checkpointing:
        found.append(Step("train.gradient_checkpointing: true", train={"gradient_checkpointing": True}))
    if train.micro_batch_size > 1:
        found.append(Step(f"train.micro_batch_size: 1{_weighed(train)}", train={"micro_batch_size": 1}))
    if launch.ranks > 1:
        found += [Step(f"runtime.launch.deepspeed: {s}", launch={"deepspeed": s}) for s in ("zero2", "zero3")]
    for stage, offload in (("zero2", "optimizer"), ("zero3", "parameters")):
        words = f"runtime.launch.deepspeed: {stage} with runtime.launch.offload: {offload}"
        found.append(Step(words, launch={"deepspeed": stage, "offload": offload}))
    return [step for step in found if _allowed(params, step)]


def _weighed(train: Train) -> str:
    """What TRL takes the mean of over each micro-batch, so that its size changes the result a little."""
    means = {"loss.type bnpo": train.loss.type == "bnpo", "loss.entropy": train.loss.entropy > 0}
    found = " and ".join(name for name, on in means.items() if on)
    return f" (changes the result a little through {found}: a mean of each micro-batch)" if found else ""


def _allowed(params: Params, step: Step) -> bool:
    try:
        step.of(params)
    except ValidationError:
        return False
    return True


def _first_fit(planner: Planner, params: Params, steps: list[Step]) -> str:
    """The single change that makes it fit; otherwise the shortest row of them, useless ones left out."""
    for step in steps:
        if _fits(planner, step.of(params)):
            return f"set {step.words}"
    row: list[Step] = []
    for step in steps:
        row = [kept for kept in row if not step.launch or not kept.launch] + [step]
        if _fits(planner, _all(params, row)):
            return "set " + ", ".join(one.words for one in _shortest(planner, params, row))
    return ""


def _shortest(planner: Planner, params: Params, row: list[Step]) -> list[Step]:
    """A row that fits, without what it does not need."""
    for one in row:
        fewer = [other for other in row if other is not one]
        row = fewer if _fits(planner, _all(params, fewer)) else row
    return row


def _all(params: Params, row: list[Step]) -> Params:
    for step in row:
        params = step.of(params)
    return params


def _fits(planner: Planner, params: Params) -> bool:
    return planner.need(params).peak <= planner.gpu and not _engine(planner, params)


def _engine(planner: Planner, params: Params) -> list[str]:
    """Whether vLLM's share holds the weights and one caption of greatest length."""
    share, least = engine_share(params), _engine_bytes(planner, params)
    if least <= share * planner.gpu:
        return []
    return [
        f"vLLM needs {least / GB:.3g} GB for weights and one caption, {share * planner.gpu / GB:.3g} GB are its share: "
        + _engine_advice(planner, params)
    ]


def _engine_advice(planner: Planner, params: Params) -> str:
    """A share that is enough; where training leaves no room for it, an engine over more GPUs, or none on these."""
    if share := _beside_training(planner, params):
        return f"set runtime.rollouts.gpu_memory (now {engine_share(params):g}) to at least {share:g}"
    ways = [_wider(planner, params), SERVER]
    return f"no share is enough beside training: set {', or '.join(way for way in ways if way)}, or take larger GPUs"


def _beside_training(planner: Planner, params: Params) -> float | None:
    """The smallest share, in hundredths, that an engine can do with and training's own state leaves; None: none."""
    share = math.ceil(100 * _engine_bytes(planner, params) / planner.gpu) / 100
    return share if share * planner.gpu + planner.need(params).states <= planner.gpu else None


def _wider(planner: Planner, params: Params) -> str:
    """The fewest GPUs over which one engine can be spread, heads and processes being shared out evenly."""
    heads, processes = planner.config.get_text_config().num_attention_heads, params.runtime.launch.processes
    for gpus in range(2, processes + 1):
        wider = changed(params, rollouts={"tensor_parallel": gpus})
        if not heads % gpus and not processes % gpus and (share := _beside_training(planner, wider)):
            return f"runtime.rollouts.tensor_parallel: {gpus} with runtime.rollouts.gpu_memory: {share:g}"
    return ""


def _length(planner: Planner, params: Params) -> list[str]:
    """Whether vLLM takes the longest prompt and caption."""
    rollouts, tokens = params.runtime.rollouts, planner.tokens(params)
    if rollouts is None or tokens <= rollouts.max_model_length:
        return []
    server = " (with which the server must be started anew)" if params.train.sampler == "vllm_server" else ""
    return [
        f"a prompt with its picture and the longest caption are {tokens} tokens: set "
        f"runtime.rollouts.max_model_length (now {rollouts.max_model_length}) to at least that{server}, or "
        "train.sampling.max_new_tokens or prepare.images.size lower"
    ]


def _engine_bytes(planner: Planner, params: Params) -> float:
    """Of weights and one caption of greatest length, on each GPU of a colocated engine; 0.0 without one."""
    rollouts, found = params.runtime.rollouts, planner.shape(params)
    if params.train.sampler != "vllm_colocate" or rollouts is None:
        return 0.0
    return (2.0 * found.total + 4.0 * found.layers * found.kv * rollouts.max_model_length) / rollouts.tensor_parallel


def _share(planner: Planner, params: Params) -> float | None:
    """The share of a GPU, in twentieths, that is enough for a colocated engine; None where it has no more than that."""
    now, least = engine_share(params), _engine_bytes(planner, params) / planner.gpu
    share = math.ceil(20 * (least + ENGINE_ROOM)) / 20
    return share if least and share < 1 and not least <= now <= share else None
