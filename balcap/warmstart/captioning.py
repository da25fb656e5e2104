"""The forward pass of supervised captioning, on a LLaVA: mean cross-entropy of caption tokens given picture and prompt.

    loss = - mean over all caption tokens t of  log p(w_t | picture, prompt, w_<t),   the end token included

Equal to the model's own forward on the whole sequence (a test holds them together), but the tower runs once per picture
however many captions the picture has, and logits are computed for caption tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from balcap.policy.generate import encode_prompts, end_tokens
from balcap.policy.store import Policy

IGNORED = -100


class Captioning:
    """A captioner ready for supervised training; its model is changed in place."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.model: Any = policy.model
        self.end = end_tokens(policy)[0]
        size = policy.model.config.vision_config.image_size
        self.prompt: Tensor = encode_prompts(policy, [Image.new("RGB", (size, size))])["input_ids"]
        """int64[1, P]: the prompt with its picture placeholders, the same for every picture."""

    def pixel_values(self, pictures: NDArray[np.uint8]) -> Tensor:
        """float32[N, 3, H, W] of uint8[N, h, w, 3], as the processor makes it (without its loop if no size changes)."""
        processor: Any = self.policy.processor
        size = self.model.config.vision_config.image_size
        if pictures.shape[1:3] != (size, size):
            images = [Image.fromarray(picture) for picture in pictures]
            return processor.image_processor(images, return_tensors="pt")["pixel_values"]
        mean = torch.tensor(processor.image_processor.image_mean).view(3, 1, 1)
        std = torch.tensor(processor.image_processor.image_std).view(3, 1, 1)
        return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - mean) / std

    def patches(self, pictures: NDArray[np.uint8]) -> Tensor:
        """float32[N, T, D]: what the tower says of each patch, before the projector."""
        return self.model.model.vision_tower(self.pixel_values(pictures)).last_hidden_state[:, 1:]

    def encode(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of captions, each with the end token behind."""
        ids = self.policy.processor.tokenizer(list(captions), add_special_tokens=False)["input_ids"]
        return [[*row, self.end] for row in ids]

    def loss(self, pictures: NDArray[np.uint8], captions: Sequence[str]) -> Tensor:
        """Mean loss per token; the captions of a picture stand one after the other, equally many for each."""
        rows = [torch.tensor(row) for row in self.encode(captions)]
        targets = pad_sequence(rows, batch_first=True, padding_value=IGNORED).unflatten(0, (len(pictures), -1))
        seen = self.model.model.multi_modal_projector(self.patches(pictures))
        known = targets != IGNORED
        return cross_entropy(self.model.lm_head(self._hidden(seen, targets)[known]), targets[known])

    def _hidden(self, seen: Tensor, targets: Tensor) -> Tensor:
        """float32[N, K, L, D]: the state from which each target of int64[N, K, L] is predicted.

        The K captions of a picture share one prompt: behind it they stand in a row and do not see each other. Padding
        stands right in each caption and is never seen.
        """
        embed: nn.Module = self.model.get_input_embeddings()
        place = (self.prompt == self.model.config.image_token_id)[..., None]
        prompt = embed(self.prompt).expand(len(targets), -1, -1).masked_scatter(place, seen)
        before = embed(targets[:, :, :-1].clamp(min=0))
        mask, positions = self._layout(targets.shape[1], before.shape[2])
        states = self.model.model.language_model(
            inputs_embeds=torch.cat([prompt, before.flatten(1, 2)], dim=1),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        asked, said = states.split([prompt.shape[1], before.shape[1] * before.shape[2]], dim=1)
        first = asked[:, -1:, None].expand(-1, targets.shape[1], -1, -1)
        return torch.cat([first, said.unflatten(1, before.shape[1:3])], dim=2)

    def _layout(self, captions: int, length: int) -> tuple[Tensor | None, Tensor]:
        """Who sees whom, bool[1, 1, S, S] (``None``: plainly causal), and positions, int64[1, S]."""
        asked = self.prompt.shape[1]
        positions = torch.cat([torch.arange(asked), torch.arange(asked, asked + length).repeat(captions)])
        if captions == 1:
            return None, positions[None]
        part = torch.cat([torch.zeros(asked), torch.arange(1, captions + 1).repeat_interleave(length)])
        same = (part[None] == part[:, None]) | (part[None] == 0)
        return same.tril()[None, None], positions[None]


def train_only(model: nn.Module, wanted: Sequence[str]) -> None:
    """Let only parameters require a gradient whose names begin with one of ``wanted``."""
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith(tuple(wanted)))
