"""What the trainer walks through: one row per picture and step, its picture decoded from the stored bytes when needed.

All pictures are shuffled, used once, shuffled again, until every step has its pictures: one epoch for TRL, so that a
resumed run meets the same pictures as an undisturbed one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from balcap.images import decode
from balcap.records import Picture, Question, Reference, Sample


class TrainingError(ValueError):
    """Data or parameters that cannot be trained on; the message names them and the remedy."""


def with_reference(
    samples: Sequence[Sample],
    references: Mapping[str, Reference],
    questions: Mapping[str, tuple[Question, ...]],
    least: int,
    use: str,
) -> list[Picture]:
    """Pictures that have a reference, by ``image_id``; raises :class:`TrainingError` below ``least``."""
    found = sorted((s for s in samples if s.image_id in references), key=lambda s: s.image_id)
    usable = [Picture(s, references[s.image_id], questions.get(s.image_id, ())) for s in found]
    if len(usable) < least:
        raise TrainingError(
            f"data/images: {len(usable)} of {len(samples)} {use} pictures have a reference in data/references.parquet, "
            f"at least {least} needed; add references or pictures"
        )
    return usable


def picture_order(pictures: int, needed: int, seed: int) -> list[int]:
    """Indices of ``needed`` pictures: permutations of all of them, one after the other."""
    rng = np.random.default_rng([seed, pictures])
    rounds = -(-needed // pictures)
    return np.concatenate([rng.permutation(pictures) for _ in range(rounds)])[:needed].tolist()


class Pictures:
    """Decodes the rows of a batch, each picture once: those of two steps are kept, and a group shares one object.

    TRL asks for all rows of a phase again at each of its micro-steps, and one batch ahead.
    """

    def __init__(self, samples: Sequence[Sample], prompt: list[dict[str, str]], keep: int) -> None:
        self.samples, self.prompt, self.keep = samples, prompt, keep
        self._decoded: OrderedDict[int, Image.Image] = OrderedDict()

    def __call__(self, rows: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Columns ``prompt`` (conversational), ``image`` (PIL, RGB) and ``image_id`` for rows of ``picture``."""
        numbers = rows["picture"]
        return {
            "prompt": [self.prompt for _ in numbers],
            "image": [self._image(i) for i in numbers],
            "image_id": [self.samples[i].image_id for i in numbers],
        }

    def _image(self, i: int) -> Image.Image:
        if i not in self._decoded:
            self._decoded[i] = decode(self.samples[i].image)
            while len(self._decoded) > self.keep:
                self._decoded.popitem(last=False)
        self._decoded.move_to_end(i)
        return self._decoded[i]


def dataset(samples: Sequence[Sample], prompt: list[dict[str, str]], per_step: int, steps: int, seed: int) -> Dataset:
    """A row per picture and step, in the order of training."""
    rows = Dataset.from_dict({"picture": picture_order(len(samples), per_step * steps, seed)})
    rows.set_transform(Pictures(samples, prompt, keep=2 * per_step))
    return rows
