"""Method ``references``: a small captioner from nothing, on the training pictures' own references.

For real pictures without a pretrained model: what it learns from a few dozen references is their style and their most
common words, hardly the pictures. Reinforcement learning then has something to improve; a checkpoint is the better
start wherever one can be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from balcap.images import decode
from balcap.params.warmstart import ReferencesMethod, TinyModel, Warmstart
from balcap.policy.build import build_tiny
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import bpe_tokenizer, word_tokenizer
from balcap.records import Reference, Sample
from balcap.scenes import VOCABULARY
from balcap.warmstart import Log, WarmstartError
from balcap.warmstart.captioning import Captioning, train_only
from balcap.warmstart.loop import Stage, Task, run_stages


def train(
    params: Warmstart,
    method: ReferencesMethod,
    samples: Iterable[Sample],
    references: Mapping[str, Reference],
    work: Path,
    out: Path,
    log: Log,
) -> None:
    """Train from nothing, or from where an earlier run stopped, and write the captioner folder ``out``.

    All pictures are kept in memory at the model's size. Raises :class:`WarmstartError` without a single pair.
    """
    assert params.model is not None
    pairs = [(sample, references[sample.image_id].caption) for sample in samples if sample.image_id in references]
    if not pairs:
        raise WarmstartError("no training picture has a reference; there is nothing to learn from")
    captions = [caption for _, caption in pairs]
    tokenizer = make_tokenizer(params.model, captions, params.prompt)
    model, processor = build_tiny(params.model, tokenizer, params.seed)
    policy = Policy(model, processor, params.prompt, params.model.tokenizer.name == "scenes", params.max_new_tokens)
    captioning = Captioning(policy)
    pictures = np.stack([pixels(sample, params.model.image_size) for sample, _ in pairs])
    task = Task(
        lambda step: draw(pictures, captions, method.sft.batch_size, params.seed, step),
        lambda batch: captioning.loss(*batch),
    )
    train_only(model, [""])
    run_stages(model, [Stage("sft", method.sft, lambda: task)], method.optimizer, work / "state.safetensors", log)
    save_policy(policy, out)


def make_tokenizer(model: TinyModel, captions: list[str], prompt: str) -> PreTrainedTokenizerFast:
    """The tokenizer that the recipe names; raises :class:`WarmstartError` if the word list lacks a caption's word."""
    if model.tokenizer.name == "bpe":
        return bpe_tokenizer([prompt, *captions], model.tokenizer.vocab_size)
    tokenizer = word_tokenizer(VOCABULARY, prompt)
    strange = next((c for c in captions if tokenizer.unk_token_id in tokenizer(c)["input_ids"]), None)
    if strange is not None:
        raise WarmstartError(
            f"the reference {strange!r} has words outside the embedded world's list; "
            "set warmstart.model.tokenizer.name to bpe"
        )
    return tokenizer


def pixels(sample: Sample, size: int) -> NDArray[np.uint8]:
    """The stored picture as the model sees it: uint8[size, size, 3], bicubic, the whole picture."""
    return np.asarray(decode(sample.image).resize((size, size), resample=3), dtype=np.uint8)


def draw(
    pictures: NDArray[np.uint8], captions: list[str], batch_size: int, seed: int, step: int
) -> tuple[NDArray[np.uint8], list[str]]:
    """The pairs of a step: each epoch is a permutation of all pairs from (seed, epoch), cut into batches."""
    chosen = [_pair(len(captions), seed, step * batch_size + i) for i in range(batch_size)]
    return pictures[chosen], [captions[i] for i in chosen]


def _pair(count: int, seed: int, position: int) -> int:
    epoch, place = divmod(position, count)
    order = list(range(count))
    Random(f"references {seed} {epoch}").shuffle(order)
    return order[place]
