"""Which captioner a recipe starts from, as a transformers configuration; no weight is read.

    found = captioner(params.warmstart, Path())
    found.config, found.source          # the shape, and where it was learnt

In this order: ``config.json`` in the checkpoint directory; the published shape that the directory is named after;
without a checkpoint, the model that the warm start builds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, LlavaConfig, PretrainedConfig, Qwen2_5_VLConfig

from balcap.params.warmstart import TinyModel, Warmstart
from balcap.policy.build import tiny_config
from balcap.policy.tokenizer import word_tokenizer

CLIP_L = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
QWEN_TOWER = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
QWEN_TEXT = {
    "max_position_embeddings": 128000,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
QWEN_3B = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


class CaptionerUnknown(ValueError):
    """Nothing says what shape the captioner has; the message names directory and remedy."""


@dataclass(frozen=True)
class Captioner:
    """The shape of a captioner, and where it was learnt."""

    config: PretrainedConfig
    source: str


def captioner(params: Warmstart, root: Path) -> Captioner:
    """The captioner that training starts from; raises :class:`CaptionerUnknown`."""
    if params.model is not None:
        return Captioner(_built(params.model, params.prompt), "warmstart.model")
    folder = root / params.path
    if (folder / "config.json").is_file():
        return Captioner(_read(folder), f"{params.path}/config.json")
    for name, make in PUBLISHED.items():
        if _plain(name) in _plain(Path(params.path).name):
            return Captioner(make(), f"the published shape of {name}; {params.path} has no config.json yet")
    raise CaptionerUnknown(
        f"warmstart.path = {params.path}: no config.json there, and it is named after none of {', '.join(PUBLISHED)}; "
        "fetch the checkpoint, or its config.json alone"
    )


def _read(folder: Path) -> PretrainedConfig:
    try:
        read: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:  # a user's file, in whatever state it is
        raise CaptionerUnknown(f"{folder}/config.json: transformers cannot read it: {error}") from None
    return read


def _built(spec: TinyModel, prompt: str) -> PretrainedConfig:
    """The embedded world's word list is code of a stage; its upper bound in the recipe stands for it."""
    config = tiny_config(spec, word_tokenizer((), prompt))
    config.get_text_config().vocab_size = spec.tokenizer.vocab_size
    return config


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def llava_7b() -> PretrainedConfig:
    """LLaVA-1.5-7B: CLIP-L at 336 pixels (576 picture tokens), Vicuna-7B."""
    return LlavaConfig(
        text_config=VICUNA_7B,
        vision_config=CLIP_L,
        image_token_index=32000,
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def qwen_3b() -> PretrainedConfig:
    """Qwen2.5-VL-3B."""
    return _qwen(QWEN_3B)


def qwen_7b() -> PretrainedConfig:
    """Qwen2.5-VL-7B."""
    return _qwen(QWEN_7B)


def _qwen(text: dict[str, Any]) -> PretrainedConfig:
    return Qwen2_5_VLConfig(
        text_config=QWEN_TEXT | text,
        vision_config=QWEN_TOWER | {"out_hidden_size": text["hidden_size"]},
        tie_word_embeddings=text["tie_word_embeddings"],
    )


PUBLISHED = {"llava-1.5-7b": llava_7b, "qwen2.5-vl-3b": qwen_3b, "qwen2.5-vl-7b": qwen_7b}
"""Shapes of the paper's captioners, as their ``config.json`` states them."""
