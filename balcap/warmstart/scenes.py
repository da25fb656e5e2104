"""Method ``scenes``: the embedded world's captioner from nothing, in the three phases that it needs.

1. **vision**: tower and projector learn to turn each cell into the words for what stands in it, and where it is;
2. **align**: the tower rests, single clean sentences teach the language model to find the cell that a place word means;
3. **sft**: everything learns to caption as the noisy captioner does, faults included.

Without the first two the third learns grammar and never looks at the picture (``miniature``, section 7).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from balcap.params.warmstart import ScenesMethod, Warmstart
from balcap.policy.build import build_tiny
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.scenes import VOCABULARY
from balcap.warmstart import Log
from balcap.warmstart.captioning import Captioning, train_only
from balcap.warmstart.loop import Stage, Task, run_stages
from balcap.warmstart.streams import (
    GRID,
    QUESTIONS,
    VISION_OBJECTS,
    Stream,
    align_batch,
    sft_batch,
    stream_number,
    vision_batch,
)

TOWER, PROJECTOR, WORDS = "model.vision_tower.", "model.multi_modal_projector.", "model.language_model.embed_tokens."


def train(params: Warmstart, method: ScenesMethod, work: Path, out: Path, log: Log) -> None:
    """Train from nothing, or from where an earlier run stopped, and write the captioner folder ``out``."""
    policy = build(params)
    captioning = Captioning(policy)
    stages = [
        Stage("vision", method.vision, lambda: vision_task(params, method, captioning)),
        Stage("align", method.align, lambda: align_task(params, method, captioning)),
        Stage("sft", method.sft, lambda: sft_task(params, method, captioning)),
    ]
    run_stages(policy.model, stages, method.optimizer, work / "state.safetensors", log)
    save_policy(policy, out)


def build(params: Warmstart) -> Policy:
    """The untrained captioner."""
    assert params.model is not None
    model, processor = build_tiny(params.model, word_tokenizer(VOCABULARY, params.prompt), params.seed)
    return Policy(model, processor, params.prompt, True, params.max_new_tokens)


def vision_task(params: Warmstart, method: ScenesMethod, captioning: Captioning) -> Task:
    """Tower, projector and word vectors: what the projector makes of a cell must be near the words that say it."""
    train_only(captioning.model, [TOWER, PROJECTOR, WORDS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        nothing = nn.Linear(captioning.model.config.text_config.hidden_size, 1)
    stream = Stream(stream_number(params.seed, "vision"), *VISION_OBJECTS, method.vision.batch_size)
    tokenizer = captioning.policy.processor.tokenizer
    words = [tokenizer.convert_tokens_to_ids(list(question)) for question in QUESTIONS]

    def loss(batch: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> Tensor:
        pictures, facts = batch
        seen = cells(captioning.model.model.multi_modal_projector(captioning.patches(pictures)))
        near, empty = captioning.model.lm_head(seen), nothing(seen)
        right = torch.from_numpy(facts).flatten(0, 1)
        answers = [torch.cat([near[..., ids], empty], dim=-1).flatten(0, 1) for ids in words]
        return torch.stack([cross_entropy(answer, right[:, i]) for i, answer in enumerate(answers)]).sum()

    return Task(lambda step: vision_batch(stream, step), loss, nothing)


def cells(patches: Tensor) -> Tensor:
    """float32[N, 9, D]: patches [N, T, D] averaged over the cells of the picture's grid."""
    side = round(patches.shape[1] ** 0.5)
    square = patches.transpose(1, 2).unflatten(2, (side, side))
    return nn.functional.adaptive_avg_pool2d(square, GRID).flatten(2).transpose(1, 2)


def align_task(params: Warmstart, method: ScenesMethod, captioning: Captioning) -> Task:
    """Projector and language model on single clean sentences."""
    train_only(captioning.model, ["model.multi_modal_projector.", "model.language_model.", "lm_head."])
    stream = _stream(params, method, "align", method.align.batch_size)
    return Task(lambda step: align_batch(stream, step), lambda batch: captioning.loss(*batch))


def sft_task(params: Warmstart, method: ScenesMethod, captioning: Captioning) -> Task:
    """Everything on noisy captions."""
    train_only(captioning.model, [""])
    stream = _stream(params, method, "sft", method.sft.batch_size)
    return Task(lambda step: sft_batch(stream, step), lambda batch: captioning.loss(*batch))


def _stream(params: Warmstart, method: ScenesMethod, phase: str, batch_size: int) -> Stream:
    return Stream(stream_number(params.seed, phase), method.min_objects, method.max_objects, batch_size)
