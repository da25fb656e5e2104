"""The paper's captioners with random weights, at their real size or tiny, for benchmarks.

policy = captioner("llava-1.5-7b", "tiny", length=12)
"""

from __future__ import annotations

import gc
from typing import Any

import torch
from _trainers import WORDS
from transformers import AutoModelForImageTextToText, GenerationConfig, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from balcap.plan.captioner import llava_7b, qwen_7b
from balcap.policy.processor import ImagesOnly
from balcap.policy.store import Policy
from balcap.policy.tokenizer import CHAT_TEMPLATE, bpe_tokenizer

CUDA = torch.cuda.is_available()
FAMILIES = {"llava-1.5-7b": llava_7b, "qwen2.5-vl-7b": qwen_7b}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TINY = {"hidden_size": 64, "intermediate_size": 128}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


def captioner(name: str, size: str, length: int) -> Policy:
    """A captioner of that shape with random weights, on the GPU if there is one; those before it are gone by then."""
    free()
    config: Any = FAMILIES[name]()
    qwen = config.model_type == "qwen2_5_vl"
    words = bpe_tokenizer([" ".join(WORDS)], 400)
    if qwen:
        words.add_tokens(list(QWEN_TOKENS), special_tokens=True)
        words.chat_template = CHAT_TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    if size == "tiny":
        _shrink(config, len(words))
    _name_tokens(config, words, qwen)
    torch.manual_seed(0)
    with torch.device("cuda" if CUDA else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16 if CUDA else torch.float32)
    end, pad = words.eos_token_id, words.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, suppress_tokens=[end, pad])
    return Policy(model, _processor(config, words, qwen), "describe", restore_capitals=False, max_new_tokens=length)


def _shrink(config: Any, vocabulary: int) -> None:
    text, vision = config.get_text_config(), config.vision_config
    changes: dict[str, Any] = {**TINY, **HEADS, "num_hidden_layers": 2, "vocab_size": vocabulary}
    if config.model_type == "llava":
        changes["num_key_value_heads"] = 2
        tower: dict[str, Any] = {**TINY, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
        config.image_seq_length = 16
    else:
        changes["rope_parameters"] = {**text.rope_parameters, "mrope_section": [4, 6, 6]}
        changes["layer_types"] = ["full_attention"] * 2
        tower = {**TINY, "depth": 2, "num_heads": 2, "out_hidden_size": 64, "fullatt_block_indexes": [1]}
    changes["head_dim"] = 32
    for part, values in ((text, changes), (vision, tower)):
        for key, value in values.items():
            setattr(part, key, value)


def _name_tokens(config: Any, words: Any, qwen: bool) -> None:
    text = config.get_text_config()
    text.bos_token_id, text.eos_token_id, text.pad_token_id = words.bos_token_id, words.eos_token_id, words.pad_token_id
    if not qwen:
        config.image_token_index = config.image_token_id = words.convert_tokens_to_ids("<image>")
        return
    for token in QWEN_TOKENS:
        key = token.strip("<|>").replace("_pad", "") + "_token_id"
        setattr(config, key, words.convert_tokens_to_ids(token))


def _processor(config: Any, words: Any, qwen: bool) -> Any:
    vision = config.vision_config
    if qwen:
        seen = Qwen2VLImageProcessorPil(patch_size=vision.patch_size, merge_size=vision.spatial_merge_size)
        return ImagesOnly(seen, words, chat_template=words.chat_template)
    square = {"height": vision.image_size, "width": vision.image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=square, crop_size=square, do_center_crop=False),
        tokenizer=words,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )


def free() -> None:
    """Let go of models that nobody has any more: bound methods that a trainer keeps on a model tie it to itself."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
