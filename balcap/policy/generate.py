"""Asks a captioner for captions.

    captions = generate_captions(policy, images, temperature=1.0, max_new_tokens=112, seed=0, batch_size=64)

Sampling is by inverse distribution: token = first i with  cumsum(softmax(logits / T))_i > u,  u uniform from
(seed, position of the picture in the list). What a picture gets therefore does not depend on how pictures are batched.
Picture and video tokens can never be drawn: one of them in a caption makes every later forward pass fail, because
placeholders and picture features no longer match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from balcap.policy.store import Policy, quiet
from balcap.progress import Progress
from balcap.records import Caption


def chat_prompt(policy: Policy) -> list[dict[str, str]]:
    """The conversation that asks for a caption, as TRL wants it: TRL puts the picture before the text."""
    return [{"role": "user", "content": policy.prompt}]


def forbidden_tokens(policy: Policy) -> list[int]:
    """Ids that must never be sampled: placeholders of pictures and videos, and what the model itself suppresses."""
    names = ("image_token_id", "video_token_id")
    ids: list[int | None] = [getattr(policy.model.config, name, None) for name in names]
    return sorted({token for token in [*ids, *(_settings(policy).suppress_tokens or [])] if token is not None})


def end_tokens(policy: Policy) -> list[int]:
    """Ids that end a caption."""
    end = _settings(policy).eos_token_id
    return [policy.processor.tokenizer.eos_token_id] if end is None else [end] if isinstance(end, int) else list(end)


def to_caption(policy: Policy, ids: Sequence[int]) -> Caption:
    """Sampled ids (padding behind the end allowed) as a caption; truncated when no end token is among them."""
    ends = set(end_tokens(policy))
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    text = policy.processor.tokenizer.decode(list(ids[:stop]), skip_special_tokens=True).strip()
    return Caption(restore_capitals(text) if policy.restore_capitals else text, truncated=stop is None)


def restore_capitals(text: str) -> str:
    """A capital at the start and after each full stop."""
    return re.sub(r"(^\s*|\.\s+)([a-z])", lambda match: match[1] + match[2].upper(), text)


@torch.inference_mode()
def generate_captions(
    policy: Policy,
    images: Sequence[Image.Image],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> list[Caption]:
    """One caption per picture (RGB), in order; ``temperature`` 0 is greedy. ``progress`` advances by pictures."""
    captions: list[Caption] = []
    config = _generation_config(policy, max_new_tokens)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        inputs = encode_prompts(policy, batch).to(policy.model.device)
        first = inputs["input_ids"].shape[1]
        steps: list[LogitsProcessor] = []
        if temperature > 0:
            rows = range(start, start + len(batch))
            steps = [Draw(uniforms(seed, rows, max_new_tokens), temperature, first)]
        model: Any = policy.model
        with quiet():  # it would complain about sampling settings of the model's own folder
            output = model.generate(**inputs, generation_config=config, logits_processor=LogitsProcessorList(steps))
        captions += [to_caption(policy, row) for row in output[:, first:].tolist()]
        if progress is not None:
            progress.advance(len(batch))
    return captions


def encode_prompts(policy: Policy, images: Sequence[Image.Image]) -> Any:
    """The processor's batch (``input_ids`` [N, prompt], left-padded, ``pixel_values`` …) that asks for captions."""
    processor: Any = policy.processor
    parts = [{"type": "image"}, {"type": "text", "text": policy.prompt}]
    turns = [{"role": "user", "content": parts}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    bos = processor.tokenizer.bos_token
    return processor(
        images=[[image] for image in images],
        text=[text] * len(images),
        padding=True,
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )


def uniforms(seed: int, rows: Sequence[int], steps: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float32 [len(rows), steps], each row from (seed, row) alone."""
    numbers = [np.random.default_rng([seed, row]).random(steps, dtype=np.float32) for row in rows]
    return torch.from_numpy(np.stack(numbers))


class Draw(LogitsProcessor):
    """Leaves only the token that the row's uniform number of this step picks, so that ``argmax`` returns it."""

    def __init__(self, numbers: torch.Tensor, temperature: float, first: int) -> None:
        self.numbers, self.temperature, self.first = numbers, temperature, first

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` [N, V], what may not be drawn already at minus infinity."""
        number = self.numbers[:, input_ids.shape[1] - self.first, None].to(scores.device)
        mass = torch.softmax(scores.float() / self.temperature, dim=-1).cumsum(dim=-1)
        # `number * total` is below the total, so that rounding never picks a token of probability zero behind it.
        token = torch.searchsorted(mass, number * mass[:, -1:], right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _settings(policy: Policy) -> GenerationConfig:
    """What the captioner's own folder says about generation."""
    return policy.model.generation_config or GenerationConfig()


def _generation_config(policy: Policy, max_new_tokens: int) -> GenerationConfig:
    """Greedy over what the processors leave; the model's own sampling settings are not used."""
    ends = end_tokens(policy)
    pad = policy.processor.tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=ends[0] if pad is None else pad,
        bos_token_id=policy.processor.tokenizer.bos_token_id,
        suppress_tokens=forbidden_tokens(policy) or None,
        disable_compile=True,
    )
