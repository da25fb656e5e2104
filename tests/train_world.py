"""A small real training set-up: a tiny LLaVA, striped pictures, and a judge that counts words by rule."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from balcap.hashing import image_id
from balcap.judge.base import Counting
from balcap.params.train import Train
from balcap.params.warmstart import TinyModel, Tokenizer
from balcap.policy.build import build_tiny
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.records import Assertion, Caption, Judgement, Question, Reference, Sample
from balcap.records_io import IMAGES, write_questions, write_references, write_table

WORDS = ("a", "red", "green", "blue", "stripe", "field", "left", "right", "up", "down", "very", "is", "here", "and")
TINY = TinyModel(
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=2,
    image_size=32,
    patch_size=16,
    tokenizer=Tokenizer(name="scenes", vocab_size=64),
)
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "steps": 4,
    "global_batch_size": 16,
    "group_size": 4,
    "updates_per_step": 2,
    "micro_batch_size": 4,
    "precision": "float32",
    "gradient_checkpointing": False,
    "sampler": "transformers",
    "lora": None,
    "frozen": ["model.vision_tower"],
    "optimizer": {
        "learning_rate": 5e-3,
        "betas": [0.9, 0.95],
        "weight_decay": 0.0,
        "warmup_steps": 1,
        "schedule": "constant_with_warmup",
        "max_grad_norm": 1.0,
    },
    "loss": {"type": "dapo", "clip_low": 0.2, "clip_high": 0.28, "kl": 0.0, "entropy": 0.0},
    "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_new_tokens": 12},
    "reward_weights": {"precision": 1.0, "recall": 1.0, "linguistic": 1.0},
    "pointable": True,
    "length_mask": {"name": "lcrm", "tau_low": 0.5, "tau_high": 2.0, "softness": None},
    "advantage": {"name": "gdpo", "ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True, "rank_unmasked": False},
    "judge": {"name": "lexical", "revision": "1", "max_failure_rate": 0.5},
    "judge_deadline": 20.0,
    "samples_every": 2,
    "sample_images": 2,
    "save_every": 2,
    "alarms": {"window": 2, "when": {}},
}


def settings(**changes: Any) -> Train:
    """Parameters of a run of seconds, with changes."""
    return Train.model_validate({**SETTINGS, **changes})


class CountingJudge(Counting):
    """Real judging by rule, on words: an assertion per word, true when the reference has it; marks by repetition."""

    name = "counting"
    revision = "1"
    fills = frozenset({"assertions", "covered", "clarity"})

    def __init__(self, spoil: Callable[[list[Judgement]], Any] = lambda judged: judged) -> None:
        super().__init__()
        self.groups: list[tuple[str, int]] = []
        self.spoil = spoil

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        self.groups.append((sample.image_id, len(captions)))
        await asyncio.sleep(0)
        true = set(reference.caption.split())
        judged = []
        for caption in captions:
            said = caption.text.lower().replace(".", "").split()
            judged.append(
                Judgement(
                    assertions=tuple(Assertion(word, word in true, True) for word in said),
                    covered=tuple(unit in said for unit in reference.units),
                    clarity=max(1, 5 - (len(said) - len(set(said)))),
                )
            )
        return self.spoil(judged)


def sample(i: int, split: str) -> tuple[Sample, Reference]:
    """A picture of one colour in stripes, and what can be said of it."""
    colour = i % 3
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:: 2 + i % 5, :, colour] = 255 - i
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    name = image_id(32, 32, pixels.tobytes())
    text = f"a {('red', 'green', 'blue')[colour]} stripe is here"
    return Sample(name, file.getvalue(), split, "test", "none"), Reference(name, text, tuple(text.split()), "test", "")


def data(train: int = 6, held_out: int = 3) -> tuple[list[Sample], dict[str, Reference]]:
    """Pictures of both splits and their references."""
    pairs = [sample(i, "train" if i < train else "eval") for i in range(train + held_out)]
    return [s for s, _ in pairs], {r.image_id: r for _, r in pairs}


def base(folder: Path) -> Path:
    """A freshly initialised captioner folder."""
    model, processor = build_tiny(TINY, word_tokenizer(WORDS, "describe"), seed=0)
    save_policy(Policy(model, processor, "describe", restore_capitals=True, max_new_tokens=12), folder)
    return folder


def write_inputs(root: Path) -> None:
    """What stage ``train`` reads, at its places below ``root``: pictures, references, an untrained captioner."""
    samples, references = data()
    (root / "data/images").mkdir(parents=True)
    for split in ("eval", "train"):
        rows = [
            {**dataclasses.asdict(one), "width": 32, "height": 32, "meta": "{}"}
            for one in sorted(samples, key=lambda one: one.image_id)
            if one.split == split
        ]
        write_table(root / f"data/images/{split}-00000.parquet", rows, IMAGES)
    write_references(root / "data/references.parquet", references.values())
    write_questions(root / "data/questions.parquet", [])
    base(root / "models/base")


class Tracked:
    """Keeps what a stage would send to the tracking store."""

    def __init__(self) -> None:
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.tables: list[Any] = []

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step, dict(metrics)))

    def table(self, name: str, frame: Any, images: Any = ()) -> None:
        self.tables.append((name, frame, images))
