"""Memory of one forward and backward pass, by running it with tensors that have a shape and no content.

    found = trace(config, train, shape, rows=8, tokens=1600)
    found.forward    # bytes at most while the forward pass runs
    found.held       # of these, what it keeps for the backward pass
    found.working    # what the backward pass takes on top, for one layer

Every tensor's life is followed through PyTorch itself, so that autocast's copies, checkpointing, frozen parts and
adapters need no formula. Layers are alike: those beyond the second are extrapolated.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PretrainedConfig

from balcap.params.train import Train
from balcap.plan.attention import WINDOWED
from balcap.plan.shape import Shape, blank


@dataclass(frozen=True)
class Passes:
    """Bytes beyond weights and gradients."""

    forward: float
    held: float
    working: float


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that come and go inside the block; ``known`` ones are not counted."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def trace(config: PretrainedConfig, train: Train, found: Shape, rows: int, tokens: int, pure: bool) -> Passes:
    """For ``rows`` captions of ``tokens`` with prompt and picture; ``pure``: weights themselves in bfloat16."""
    one, two = (_run(config, train, found, n, rows, tokens, pure) for n in (1, 2))
    more = found.layers - 1
    forward, held = (x + more * (y - x) for x, y in ((one.forward, two.forward), (one.held, two.held)))
    return Passes(forward, held, two.working)


def _run(
    config: PretrainedConfig, train: Train, found: Shape, layers: int, rows: int, tokens: int, pure: bool
) -> Passes:
    dtype = torch.bfloat16 if pure else torch.float32
    with blank(config, train, layers, dtype) as model:
        if train.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        inputs = _inputs(config, found, rows, tokens, dtype)
        known = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None), *inputs.values()]
        with Alive(known) as alive:
            with torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bfloat16" and not pure):
                last = _forward(model, config, inputs)
            forward, held = alive.peak, alive.now
            alive.peak = held
            last.sum().backward()
        return Passes(forward, held, alive.peak - held)


def _inputs(config: PretrainedConfig, found: Shape, rows: int, tokens: int, dtype: torch.dtype) -> dict[str, Any]:
    planes = (3, rows, tokens) if config.model_type == "qwen2_5_vl" else (rows, tokens)
    return {
        "embeds": torch.zeros(rows, tokens, found.hidden, dtype=dtype, requires_grad=True),
        "mask": torch.ones(rows, 1, tokens, tokens, dtype=torch.bool),
        "positions": torch.zeros(planes, dtype=torch.long),
        "pixels": torch.zeros(rows * found.pixels, dtype=dtype),
    }


def _forward(model: Any, config: PretrainedConfig, inputs: dict[str, Any]) -> torch.Tensor:
    """Pictures through the tower, then everything through the text model: [rows, tokens, hidden]."""
    seen = _see(model.model, config, inputs["pixels"], len(inputs["embeds"]))
    embeds = inputs["embeds"]
    embeds = torch.cat([seen.to(embeds.dtype), embeds[:, seen.shape[1] :]], dim=1)
    out = model.model.language_model(
        inputs_embeds=embeds, attention_mask=inputs["mask"], position_ids=inputs["positions"], use_cache=False
    )
    last: torch.Tensor = out.last_hidden_state
    return last


def _see(core: Any, config: PretrainedConfig, pixels: torch.Tensor, rows: int) -> torch.Tensor:
    """Picture tokens [rows, image tokens, hidden]."""
    vision: Any = config.vision_config
    if config.model_type == "llava":
        shaped = pixels.view(rows, 3, vision.image_size, vision.image_size)
        select = config.vision_feature_layer
        states = core.vision_tower(shaped, output_hidden_states=True).hidden_states[select]
        return core.multi_modal_projector(states[:, 1:])
    tower, width = core.visual, vision.hidden_size // vision.num_heads
    for block in tower.blocks:
        block.attn.config._attn_implementation = WINDOWED
    states = tower.patch_embed(pixels.view(-1, 3 * vision.temporal_patch_size * vision.patch_size**2))
    turn = torch.zeros(len(states), width, dtype=states.dtype)
    starts = torch.zeros(2, dtype=torch.int32)
    for block in tower.blocks:
        states = block(states, cu_seqlens=starts, max_seqlen=1, position_embeddings=(turn, turn))
    merged: torch.Tensor = tower.merger(states)
    return merged.view(rows, -1, merged.shape[-1])
