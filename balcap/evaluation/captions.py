"""Captions of held-out pictures, kept batch by batch, so that a killed evaluation goes on where it was.

``work/MODEL-00000.json`` holds the captions of one batch; a batch's random numbers come from (seed, its first row), so
that a resumed run gives the same captions as one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from balcap.files import write_json
from balcap.images import decode
from balcap.params.evaluate import Evaluate
from balcap.progress import Progress
from balcap.records import Caption, Sample


def caption_all(params: Evaluate, model: str, folder: Path, samples: Sequence[Sample], work: Path) -> list[Caption]:
    """One caption per picture by the captioner in ``folder``, in order; finished batches are read from ``work``.

    The model is loaded only when a batch is missing. Raises what ``load_policy`` raises.
    """
    progress = Progress(f"captions-{model}", len(samples), "pictures")
    files = [(start, work / f"{model}-{start:05d}.json") for start in range(0, len(samples), params.batch_size)]
    missing = {start for start, file in files if not file.is_file()}
    progress.skip(sum(len(_batch(params, samples, start)) for start, _ in files if start not in missing))
    captions = _captioner(params, folder, samples, sorted(missing))
    for start, file in files:
        if start in missing:
            write_json(file, [asdict(caption) for caption in next(captions)])
            progress.advance(len(_batch(params, samples, start)))
    return [Caption(**row) for _, file in files for row in json.loads(file.read_text(encoding="utf-8"))]


def _captioner(params: Evaluate, folder: Path, samples: Sequence[Sample], starts: list[int]) -> Iterator[list[Caption]]:
    """Captions of the batches at ``starts``, one batch at a time."""
    if not starts:
        return
    import torch

    from balcap.policy.generate import generate_captions
    from balcap.policy.store import load_policy

    policy = load_policy(folder, device="cuda" if torch.cuda.is_available() else "cpu")
    for start in starts:
        yield generate_captions(
            policy,
            [decode(sample.image) for sample in _batch(params, samples, start)],
            temperature=params.temperature,
            max_new_tokens=params.max_new_tokens,
            seed=batch_seed(params.seed, start),
            batch_size=params.batch_size,
        )


def _batch(params: Evaluate, samples: Sequence[Sample], start: int) -> Sequence[Sample]:
    return samples[start : start + params.batch_size]


def batch_seed(seed: int, start: int) -> int:
    """The seed of the batch whose first picture is number ``start``; base and policy share it."""
    return int.from_bytes(hashlib.sha256(f"{seed} {start}".encode()).digest()[:4], "big")
