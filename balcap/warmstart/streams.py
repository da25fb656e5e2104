"""What the phases of the method ``scenes`` learn from: fresh pictures of the embedded world, drawn when needed.

Batch number ``step`` of a phase depends on (seed, phase, step) alone, so that a resumed run sees what an undisturbed
one would have seen. The streams never meet those of ``prepare``: a stream's number is the hash of seed and phase with
bit 63 set, and ``prepare`` draws with the recipe's small seeds.

No torch in here: batches are drawn in a thread of their own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray

from balcap.scenes.clean import clean_sentences
from balcap.scenes.noisy import noisy_caption
from balcap.scenes.render import render
from balcap.scenes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Scene, draw_scene

GRID = 3
"""Cells per side."""
VISION_OBJECTS = (4, 9)
"""Fewest and most objects in the vision phase: a full grid teaches more per picture."""
SENTENCES = 4
"""Clean sentences per picture in the alignment phase."""
POOL = 8
"""Batches that are sorted by length together in the SFT phase."""


def stream_number(seed: int, phase: str) -> int:
    """Number of a stream of scenes, at least 2 ** 63."""
    digest = hashlib.sha256(f"warmstart {phase} {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") | 1 << 63


@dataclass(frozen=True)
class Stream:
    """Scenes ``index`` = 0, 1, 2, … of one phase."""

    number: int
    min_objects: int
    max_objects: int
    batch_size: int

    def scene(self, index: int) -> Scene:
        return draw_scene(self.number, index, self.min_objects, self.max_objects)

    def batch(self, step: int) -> list[Scene]:
        """The scenes of one step."""
        return [self.scene(step * self.batch_size + i) for i in range(self.batch_size)]


def pictures(scenes: list[Scene]) -> NDArray[np.uint8]:
    """uint8[N, 96, 96, 3]."""
    return np.stack([render(scene) for scene in scenes])


QUESTIONS = (SHAPES, COLOURS, SIZES, BACKGROUNDS, TEXTURES, PLACES)
"""What each cell is asked in the vision phase, as lists of possible words. The first three may have none."""


def cell_facts(scenes: list[Scene]) -> NDArray[np.int64]:
    """int64[N, 9, 6]: which word answers each of ``QUESTIONS`` for each cell; where none does, one past the last."""
    facts = np.empty((len(scenes), len(PLACES), len(QUESTIONS)), np.int64)
    facts[:, :, :3] = len(SHAPES), len(COLOURS), len(SIZES)
    facts[:, :, 5] = np.arange(len(PLACES))
    for row, scene in zip(facts, scenes, strict=True):
        row[:, 3:5] = BACKGROUNDS.index(scene.background), TEXTURES.index(scene.texture)
        for thing in scene.things:
            row[thing.cell, :3] = SHAPES.index(thing.shape), COLOURS.index(thing.colour), SIZES.index(thing.size)
    return facts


def vision_batch(stream: Stream, step: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures and the facts of their cells."""
    scenes = stream.batch(step)
    return pictures(scenes), cell_facts(scenes)


def align_batch(stream: Stream, step: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures and ``SENTENCES`` clean sentences for each, one after the other."""
    scenes = stream.batch(step)
    rng = Random(f"{stream.number} {step}")
    return pictures(scenes), [text for scene in scenes for text in clean_sentences(scene, rng, SENTENCES)]


def sft_batch(stream: Stream, step: int) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures and one noisy caption each, of about equal length: ``POOL`` batches are drawn and sorted together."""
    pool, place = divmod(step, POOL)
    scenes, captions, order = _pool(stream, pool)
    chosen = order[place]
    return pictures([scenes[i] for i in chosen]), [captions[i] for i in chosen]


@lru_cache(maxsize=1)
def _pool(stream: Stream, pool: int) -> tuple[list[Scene], list[str], list[list[int]]]:
    """Scenes and captions of a pool, and which of them form each of its batches."""
    scenes = [scene for i in range(POOL) for scene in stream.batch(pool * POOL + i)]
    captions = [noisy_caption(scene, stream.number + pool) for scene in scenes]
    by_length = sorted(range(len(scenes)), key=lambda i: (len(captions[i].split()), i))
    batches = [by_length[i : i + stream.batch_size] for i in range(0, len(scenes), stream.batch_size)]
    Random(f"{stream.number} {pool}").shuffle(batches)
    return scenes, captions, batches
