"""What an evaluation is made of: pictures, each captioned by two models, judged and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balcap.evaluation.detectors import DETECTORS
from balcap.records import Caption, Judgement, Picture

MODELS = ("base", "policy")
COLUMNS = ("precision", "recall", "linguistic", "qa_accuracy", "arena", "words", "length_ratio", *DETECTORS)
"""Scores of one caption, in the order of samples.parquet; the corpus adds ``b_capscore``."""


@dataclass(frozen=True)
class Row:
    """One picture under one model; ``scores`` has every name of :data:`COLUMNS`, NaN = unknown."""

    caption: Caption
    judgement: Judgement
    scores: dict[str, float]


@dataclass(frozen=True)
class Case:
    """One picture under both models."""

    picture: Picture
    base: Row
    policy: Row


def columns(cases: Sequence[Case], model: str) -> dict[str, NDArray[np.float64]]:
    """Scores of one model, float64 [pictures] per name of :data:`COLUMNS`."""
    rows: list[Row] = [getattr(case, model) for case in cases]
    return {name: np.array([row.scores[name] for row in rows], dtype=np.float64) for name in COLUMNS}
