"""Twins of the real captioners: the architectures, processors and chat templates of LLaVA-1.5 and Qwen2.5-VL, tiny.

    checkpoint("llava", folder)      # a folder as it is fetched from a hub: random weights, files and names as there
    base("qwen", folder)             # the same as the stage `warmstart` adopts it, ready for `load_policy`

What a twin says is noise, without an end unless it is made :func:`talkative`. Weights are float32; equal seeds give
equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

from balcap.params.warmstart import CheckpointMethod, Warmstart
from balcap.policy.folder import weights_sha256
from balcap.policy.store import load_policy, nest_tower
from balcap.warmstart.checkpoint import adopt

FAMILIES = ("llava", "qwen", "qwen-tied")
"""As LLaVA-1.5-7B, Qwen2.5-VL-7B, and Qwen2.5-VL-3B, whose head is its embedding."""
PROMPT = "Describe this image in detail."
TEXTS = ("A red car is parked by a wooden fence. The sky above the hills is clear and blue.", PROMPT)
HIDDEN, HEADS, LONGEST = 64, 2, 2048
SPARE = 8
"""Rows of the embedding that no token has, as in the originals."""
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def checkpoint(family: str, folder: Path, seed: int = 0) -> Path:
    """Write the twin's weights, tokenizer and settings as its original's repository holds them."""
    words, config, kind = _llava() if family == "llava" else _qwen(tied=family == "qwen-tied")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
    model.generation_config = GenerationConfig(**_recommended(family, words))
    model.save_pretrained(folder)
    nest_tower(folder / "model.safetensors")
    words.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    for name, content in _settings(family).items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    template = {"chat_template": words.chat_template}
    (folder / "chat_template.json").write_text(json.dumps(template), encoding="utf-8")
    return folder


def base(family: str, folder: Path, seed: int = 0, max_new_tokens: int = 12, prompt: str = PROMPT) -> Path:
    """Adopt a twin as the stage does: the captioner folder ``folder``; ``folder.hub`` beside it is its checkpoint."""
    source = checkpoint(family, folder.with_name(folder.name + ".hub"), seed)
    method = CheckpointMethod(name="checkpoint", sha256=weights_sha256(source))
    asked: dict[str, Any] = {"prompt": prompt, "max_new_tokens": max_new_tokens, "seed": 0, "model": None}
    params = Warmstart.model_construct(path=str(source), method=method, **asked)  # a path outside the checkout
    adopt(params, method, folder)
    return folder


def talkative(base: Path) -> Path:
    """Give the end token so large a weight that captions end after some words."""
    policy = load_policy(base)
    ends = policy.model.generation_config.eos_token_id
    file = base / "model.safetensors"
    tensors = load_file(file)
    (head,) = [key for key in tensors if key.endswith("lm_head.weight")] or ["model.embed_tokens.weight"]
    tensors[head][ends] *= 30
    save_file(tensors, file, metadata={"format": "pt"})
    return base


def _llava() -> tuple[LlamaTokenizer, LlavaConfig, type[LlavaForConditionalGeneration]]:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab, merges = _trained(["<unk>", "<s>", "</s>", *fallback], pre_tokenizers.Metaspace(), [])
    words = LlamaTokenizer(
        vocab=vocab, merges=merges, add_bos_token=True, model_max_length=LONGEST, chat_template=LLAVA_TEMPLATE
    )
    words.add_tokens(["<image>", "<pad>"], special_tokens=True)
    words.pad_token, words.padding_side = "<pad>", "left"
    text = LlamaConfig(
        vocab_size=len(words) + SPARE,
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        max_position_embeddings=LONGEST,
    )
    tower = CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        image_size=56,
        patch_size=14,
        projection_dim=HIDDEN,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layer=-2,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
    return words, config, LlavaForConditionalGeneration


def _qwen(tied: bool) -> tuple[Qwen2Tokenizer, Qwen2_5_VLConfig, type[Qwen2_5_VLForConditionalGeneration]]:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocab, merges = _trained([], pre_tokenizers.ByteLevel(add_prefix_space=False), sorted(alphabet))
    names = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    special = [f"<|{name}|>" for name in names]
    vocab |= {token: len(vocab) + i for i, token in enumerate(special)}
    words = Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=special,
        model_max_length=LONGEST,
        chat_template=QWEN_TEMPLATE,
    )
    ids = {name: words.convert_tokens_to_ids(token) for name, token in zip(names, special, strict=True)}
    text = {
        "vocab_size": len(words) + SPARE,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": LONGEST,
        "rope_theta": 1e4,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": tied,
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
    }
    tower = {
        "depth": 2,
        "hidden_size": HIDDEN,
        "num_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "out_hidden_size": HIDDEN,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    places = {f"{name}_token_id": ids[name] for name in ("vision_start", "vision_end")}
    places |= {f"{name}_token_id": ids[f"{name}_pad"] for name in ("image", "video")}
    config = Qwen2_5_VLConfig(vision_config=tower, **places, **text)  # flat, as the original's config.json is
    return words, config, Qwen2_5_VLForConditionalGeneration


def _trained(special: Sequence[str], cut: Any, alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte pair encoding of ``TEXTS``."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = cut
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return learnt["vocab"], [tuple(pair) for pair in learnt["merges"]]


def _recommended(family: str, words: Any) -> dict[str, Any]:
    """What the original's ``generation_config.json`` says: Qwen recommends a repetition penalty."""
    if family == "llava":
        return {
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        }
    ends = words.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    sampling = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 1e-6}
    return {"bos_token_id": ends[1], "eos_token_id": ends, "pad_token_id": ends[1], **sampling}


def _settings(family: str) -> dict[str, Any]:
    """The processor's files."""
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    if family != "llava":
        return {
            "preprocessor_config.json": {
                "min_pixels": 4 * 28 * 28,
                "max_pixels": 64 * 28 * 28,
                "patch_size": 14,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "image_processor_type": "Qwen2VLImageProcessor",
                "processor_class": "Qwen2_5_VLProcessor",
                **clip,
            }
        }
    return {
        "preprocessor_config.json": {
            "crop_size": {"height": 56, "width": 56},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 56},
            **clip,
        },
        "processor_config.json": {
            "image_token": "<image>",
            "num_additional_image_tokens": 1,
            "patch_size": 14,
            "processor_class": "LlavaProcessor",
            "vision_feature_select_strategy": "default",
        },
    }
