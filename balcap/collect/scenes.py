"""The embedded world's writers: references by the imperfect teacher, questions from the scene's facts.

Both need ``sample.meta["scene"]`` and depend on nothing but the scene and the seed.
"""

from __future__ import annotations

from balcap.hashing import sha256_text
from balcap.records import Question, Reference, Sample
from balcap.scenes import Scene, scene_questions, split_units, teacher_caption

WRITER = "scenes"
PROMPT_SHA256 = sha256_text("scenes 1: the imperfect teacher writes from the facts; units are its statements")
"""The teacher has no prompt; a changed teacher changes this description's version."""


def write_reference(sample: Sample, seed: int) -> Reference:
    """The teacher's caption and its units.

    Raises ``ValueError`` if ``meta["scene"]`` is no scene.
    """
    caption = teacher_caption(Scene.from_json(sample.meta["scene"]), seed)
    return Reference(sample.image_id, caption, split_units(caption), WRITER, PROMPT_SHA256)


def write_questions(sample: Sample, seed: int, limit: int) -> list[Question]:
    """At most ``limit`` questions; the facts answer all of them, without the picture one can only guess.

    Raises ``ValueError`` if ``meta["scene"]`` is no scene.
    """
    return [
        Question(sample.image_id, q.question, q.options, q.answer, 1.0, 1.0 / len(q.options))
        for q in scene_questions(Scene.from_json(sample.meta["scene"]), seed, limit)
    ]
