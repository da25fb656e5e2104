"""Builds a captioner of miniature size: CLIP tower, two-layer projector, Llama (``miniature``, section 4).

    model, processor = build_tiny(params.warmstart.model, tokenizer, seed=0)

96 x 96 pixels in patches of 32 are 9 picture tokens: CLIP's class token is dropped, the tower's last layer is used.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from balcap.params.warmstart import TinyModel
from balcap.policy.tokenizer import MAX_LENGTH

TEXT_STD = 0.06
PROJECTOR_STD = 0.08
PLACE_STD = 0.5
"""Initial spread of the text weights, the projector and the tower's position embedding (``miniature``, section 4)."""


def build_tiny(
    spec: TinyModel, tokenizer: PreTrainedTokenizerFast, seed: int
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A freshly initialised model (float32, CPU) and its processor; equal seeds give equal weights.

    Leaves the global random state as it was.
    """
    processor = LlavaProcessor(
        image_processor=_image_processor(spec.image_size),
        tokenizer=tokenizer,
        patch_size=spec.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(tiny_config(spec, tokenizer))
        _initialise(model)
    model.generation_config = _generation_config(tokenizer)
    return model.eval(), processor


def _image_processor(size: int) -> CLIPImageProcessorPil:
    """Squares of ``size`` pixels: a caption concerns the whole picture, so nothing is cropped away."""
    square = {"height": size, "width": size}
    return CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False)


def tiny_config(spec: TinyModel, tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """The shape of a captioner of miniature size."""
    shape: dict[str, Any] = {
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "dtype": "float32",
    }
    ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=spec.heads,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=TEXT_STD,
        tie_word_embeddings=True,
        **ids,
        **shape,
    )
    vision = CLIPVisionConfig(
        image_size=spec.image_size, patch_size=spec.patch_size, projection_dim=spec.hidden_size, **shape
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        image_seq_length=(spec.image_size // spec.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **ids,
    )


@torch.no_grad()
def _initialise(model: LlavaForConditionalGeneration) -> None:
    """The three spreads that differ from transformers' own initialisation."""
    projector = model.model.multi_modal_projector
    for layer in (projector.linear_1, projector.linear_2):
        layer.weight.normal_(0.0, PROJECTOR_STD)
        layer.bias.zero_()
    model.model.vision_tower.embeddings.position_embedding.weight.normal_(0.0, PLACE_STD)


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Plain sampling; picture, padding, begin and unknown tokens are never drawn, whoever calls ``generate``."""
    return GenerationConfig(
        do_sample=True,
        top_k=0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted(
            [tokenizer.image_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id]
        ),
    )
