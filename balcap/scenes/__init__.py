"""The embedded world: facts to picture, facts to text, text to facts (``miniature``).

    scene = draw_scene(seed=7, index=0, min_objects=1, max_objects=3)
    render(scene)                       uint8[96, 96, 3]
    teacher_caption(scene, seed=11)     the imperfect reference
    noisy_caption(scene, seed=0)        what supervised training imitates
    clean_sentences(scene, Random(0))   what alignment imitates

Pure numpy and Python; nothing here knows of models, judges or stages.
"""

from __future__ import annotations

from balcap.scenes.clean import clean_sentences
from balcap.scenes.grammar import VOCABULARY
from balcap.scenes.noisy import noisy_caption
from balcap.scenes.render import render
from balcap.scenes.teacher import teacher_caption
from balcap.scenes.world import Scene, draw_scene

__all__ = [
    "VOCABULARY",
    "Scene",
    "clean_sentences",
    "draw_scene",
    "noisy_caption",
    "render",
    "teacher_caption",
]
