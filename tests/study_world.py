"""Synthetic results of a study: scores and curves of a few arms with known differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from balcap.study.data import COUNTED, CURVES, MEASURED, Study


def study(
    effects: Mapping[str, float],
    *,
    seeds: int = 3,
    pictures: int = 60,
    steps: int = 20,
    between: float = 0.01,
    shared: float = 0.05,
    noise: float = 0.2,
    seed: int = 0,
) -> Study:
    """Precision of each arm = .6 + its effect + what the seed does (sd ``between``, per arm) + how hard the picture is,
    for all arms alike, + what the arm makes of the picture (sd ``shared``, all seeds alike) + ``noise`` per caption.
    """
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 0.2, pictures)
    scores, curves = {}, {}
    for arm, effect in effects.items():
        own = rng.normal(0, shared, pictures)
        for s in range(seeds):
            level = 0.6 + effect + rng.normal(0, between)
            rows = {name: np.full(pictures, 0.5) for name in (*MEASURED, *COUNTED)}
            rows["precision"] = level + hard + own + rng.normal(0, noise, pictures)
            rows["words"] = np.full(pictures, 20.0)
            rows["length_ratio"] = np.full(pictures, 0.8)
            scores[arm, s] = rows
            curves[arm, s] = {name: np.full(steps, 0.5) for name in CURVES} | {
                "precision": level + rng.normal(0, 0.02, steps)
            }
    return Study(scores, curves, [], {"commands": ["balcap study ablations"], "experiments": {}})
