"""Writes a Qwen2.5-VL of miniature size with random weights: it says nothing sensible, but as vLLM's real models do.

    python tools/tiny_qwen_vl.py .work/models/tiny-qwen-vl

Pictures, chat template, cache and constrained decoding can be tried with it on any machine; what it judges is noise. A
picture takes one token per 28 x 28 pixels, as in the real model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from balcap.files import atomic_path

ROOT = Path(__file__).parents[1]
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<pad>",
]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type in ('image', 'image_url') %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN, HEADS, LAYERS, PATCH, MERGE = 64, 2, 2, 14, 2
LONGEST = 8192
SIDE = PATCH * MERGE
PIXELS = {"shortest_edge": 4 * SIDE**2, "longest_edge": 1280 * SIDE**2}


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and frequent words: it can write any text, and cuts captions and prompts about as real ones do."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    texts = (ROOT / "data/examples/photos/captions.jsonl", *sorted((ROOT / "balcap/judge/prompts").glob("*.md")))
    bpe.train_from_iterator([path.read_text(encoding="utf-8") for path in texts], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<pad>", model_max_length=LONGEST
    )
    made.chat_template = TEMPLATE
    return made


def config(words: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """The shape of stack-wide tests: every part of the architecture, twice at most."""
    ids = dict(zip(SPECIAL, words.convert_tokens_to_ids(SPECIAL), strict=True))
    half = HIDDEN // HEADS // 2
    text = {
        "vocab_size": len(words),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 1,
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8],
        },
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<pad>"],
    }
    vision = {
        "depth": LAYERS,
        "hidden_size": HIDDEN,
        "num_heads": HEADS,
        "intermediate_size": 2 * HIDDEN,
        "out_hidden_size": HIDDEN,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "window_size": 4 * SIDE,
        "fullatt_block_indexes": [1],
    }
    places = {f"{name}_token_id": ids[f"<|{name}|>"] for name in ("vision_start", "vision_end")}
    places |= {f"{name}_token_id": ids[f"<|{name}_pad|>"] for name in ("image", "video")}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **places)


def write(folder: Path) -> None:
    """Weights, tokenizer, and the settings of the processor, which is not built here: it would need torchvision."""
    torch.manual_seed(0)
    words = tokenizer()
    Qwen2_5_VLForConditionalGeneration(config(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    pictures = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=PIXELS)
    settings = pictures.to_dict() | {"processor_class": "Qwen2_5_VLProcessor"}
    settings["image_processor_type"] = "Qwen2VLImageProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1))


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1])) as tmp:
        tmp.mkdir()
        write(tmp)
