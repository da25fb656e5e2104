"""What planning needs to know of a captioner: how many parameters it has, how many are trained, how a layer is cut.

The model is built from its configuration with tensors that have a shape and no content, so that a 7B takes no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageTextToText, PretrainedConfig

from balcap.params.train import Lora, Train
from balcap.plan.attention import PLANNED
from balcap.policy.folder import PolicyError
from balcap.policy.lora import lora_config
from balcap.training.run import freeze

TOWERS = {"llava": "model.vision_tower", "qwen2_5_vl": "model.visual"}
"""Where each family keeps its vision tower."""


@dataclass(frozen=True)
class Shape:
    """Counts of parameters; sizes of the text model; tokens and numbers that one picture becomes."""

    total: int
    trained: int
    tower: int
    """Parameters of the vision tower, its merger included."""
    embedding: int
    """Rows of the table of tokens times width: looked up, not multiplied."""
    hidden: int
    intermediate: int
    layers: int
    kv: int
    """Numbers per token, layer and side (key or value) of the cache."""
    vocab: int
    head_separate: bool
    """Whether the head has a weight of its own, not the table of tokens."""
    head_trained: bool
    tower_trained: int
    """Parameters of the tower that are trained."""
    tower_passed: int
    """Parameters of the tower from the first trained one on: those above what is frozen at its bottom."""
    image_tokens: int
    patches: int
    """Positions of the tower per picture."""
    pixels: int
    """Numbers that the processor makes of one picture."""
    tower_wide: int
    """Numbers alive per position where one layer of the tower is widest."""


def shape(config: PretrainedConfig, train: Train, side: int) -> Shape:
    """Counts for a captioner that sees squares of ``side`` pixels; raises :class:`PolicyError` or ``TrainingError``."""
    tokens, patches, pixels = picture(config, side)
    text: Any = config.get_text_config()
    vision: Any = config.vision_config
    with blank(config, train, None) as model:
        named = {name: (p.numel(), p.requires_grad) for name, p in model.named_parameters()}
        tower = [count for name, count in named.items() if TOWERS[config.model_type] in name]
        return Shape(
            total=sum(n for n, _ in named.values()),
            trained=sum(n for n, trained in named.values() if trained),
            tower=sum(n for n, _ in tower),
            embedding=model.get_input_embeddings().weight.numel(),
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            layers=text.num_hidden_layers,
            kv=text.hidden_size // text.num_attention_heads * text.num_key_value_heads,
            vocab=text.vocab_size,
            head_separate=model.get_output_embeddings().weight is not model.get_input_embeddings().weight,
            head_trained=model.get_output_embeddings().weight.requires_grad,
            tower_trained=sum(n for n, trained in tower if trained),
            tower_passed=sum(n for n, _ in dropwhile(lambda one: not one[1], tower)),  # as the forward pass meets them
            image_tokens=tokens,
            patches=patches,
            pixels=pixels,
            tower_wide=wide(vision.hidden_size, vision.intermediate_size),
        )


def wide(hidden: int, intermediate: int) -> int:
    """Numbers alive per position in a feed-forward block: gate, up, product; the stream and its normalised copy."""
    return 3 * intermediate + 2 * hidden


def picture(config: PretrainedConfig, side: int) -> tuple[int, int, int]:
    """Text tokens, tower positions and numbers of one square picture of ``side`` pixels."""
    vision: Any = config.vision_config
    if config.model_type == "llava":
        patches = (vision.image_size // vision.patch_size) ** 2
        return patches, patches + 1, 3 * vision.image_size**2
    unit = vision.patch_size * vision.spatial_merge_size
    tokens = max(round(side / unit), 1) ** 2
    patches = tokens * vision.spatial_merge_size**2
    return tokens, patches, patches * 3 * vision.temporal_patch_size * vision.patch_size**2


@contextmanager
def blank(
    config: PretrainedConfig, train: Train, layers: int | None, dtype: torch.dtype = torch.float32
) -> Iterator[Any]:
    """The model without content, frozen and adapted as ``train`` says; ``layers`` cuts its text model short.

    Everything inside the block is without content, too.
    """
    if config.model_type not in TOWERS:
        raise PolicyError(f"captioners of type {config.model_type} are not known; known are {', '.join(TOWERS)}")
    config = deepcopy(config)
    config._attn_implementation = PLANNED
    if layers is not None:
        _shorten(config.get_text_config(), layers)
    default = torch.get_default_dtype()
    with FakeTensorMode():
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
        finally:
            torch.set_default_dtype(default)
        yield adapted(model, train.frozen, train.lora).train()


def _shorten(text: Any, layers: int) -> None:
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def adapted(model: Any, frozen: Sequence[str], lora: Lora | None) -> Any:
    """The model with its frozen parts, and with low-rank adapters in place of what else would be trained."""
    freeze(model, frozen)
    if (settings := lora_config(model, lora, frozen)) is None or lora is None:
        return model
    model.requires_grad_(False)
    for name in sorted(settings.target_modules or ()):
        model.set_submodule(name, Adapter(model.get_submodule(name), lora))
    return model


class Adapter(torch.nn.Module):
    """A linear layer with a low-rank one beside it: the arithmetic of peft's, which cannot be built without content."""

    def __init__(self, base: torch.nn.Linear, lora: Lora) -> None:
        super().__init__()
        self.base, self.scale = base, lora.alpha / lora.rank
        self.dropout = torch.nn.Dropout(lora.dropout)
        self.down = torch.nn.Linear(base.in_features, lora.rank, bias=False)
        self.up = torch.nn.Linear(lora.rank, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of [..., in] to [..., out]; the adapters stay float32, as peft keeps them."""
        small = self.up(self.down(self.dropout(x.to(self.down.weight.dtype))))
        out: torch.Tensor = self.base(x)
        return out + (small * self.scale).to(out.dtype)
