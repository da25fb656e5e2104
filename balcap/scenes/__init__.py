"""The embedded world: facts to picture, facts to text, text to facts (``miniature``).

    scene = draw_scene(seed=7, index=0, min_objects=1, max_objects=3)
    render(scene)                                   uint8[96, 96, 3]
    teacher_caption(scene, seed=11)                 the imperfect reference; split_units(caption) its units
    noisy_caption(scene, seed=0)                    what supervised training imitates
    clean_sentences(scene, Random(0))               what alignment imitates
    parse(caption).atoms(), verified(atom, scene), covered(units, caption), marks(caption), flaws(caption)
    scene_questions(scene, seed=12, limit=10), answer(question, options, caption, seed=0)
    arena_score(scene, caption, arena_opponents(scene, reference, seed=0))

Pure numpy and Python; nothing here knows of models, judges or stages.
"""

from __future__ import annotations

from balcap.scenes.arena import arena_opponents, arena_outcome, arena_points, arena_score
from balcap.scenes.atoms import Atom, pointable, say, verified
from balcap.scenes.clean import clean_sentences
from balcap.scenes.coverage import covered
from balcap.scenes.grammar import COMMENTARY, VOCABULARY
from balcap.scenes.marks import Flaws, flaws, marks
from balcap.scenes.noisy import noisy_caption
from balcap.scenes.parse import parse, split_units
from balcap.scenes.qa import SceneQuestion, answer, scene_questions
from balcap.scenes.render import render
from balcap.scenes.teacher import teacher_caption
from balcap.scenes.world import Scene, draw_scene

__all__ = [
    "COMMENTARY",
    "VOCABULARY",
    "Atom",
    "Flaws",
    "Scene",
    "SceneQuestion",
    "answer",
    "arena_opponents",
    "arena_outcome",
    "arena_points",
    "arena_score",
    "clean_sentences",
    "covered",
    "draw_scene",
    "flaws",
    "marks",
    "noisy_caption",
    "parse",
    "pointable",
    "render",
    "say",
    "scene_questions",
    "split_units",
    "teacher_caption",
    "verified",
]
