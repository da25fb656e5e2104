"""Single clean sentences for the alignment phase: true, complete, mostly about one object and place first.

Learning what stands where needs one fact at a time (``miniature``, sections 4 and 7).
"""

from __future__ import annotations

from random import Random

from balcap.scenes import grammar
from balcap.scenes.grammar import Said
from balcap.scenes.teacher import object_form, pick_relation
from balcap.scenes.world import Scene

OBJECT, PLACE_FIRST = 0.78, 0.6
"""Share of object sentences, and of these that begin with the place."""


def clean_sentences(scene: Scene, rng: Random, count: int = 4) -> list[str]:
    """``count`` sentences about a scene, drawn with replacement."""
    objects = [Said(thing.shape, thing.colour, thing.size, thing.cell) for thing in scene.things]
    return [grammar.sentence(_clause(scene, objects, rng)) for _ in range(count)]


def _clause(scene: Scene, objects: list[Said], rng: Random) -> str:
    if rng.random() < OBJECT:
        return object_form(rng.choice(objects), rng, PLACE_FIRST)
    kind = rng.choice(("background", "count", "relation"))
    if kind == "relation" and (relation := pick_relation(objects, rng)):
        return relation
    if kind == "count":
        return grammar.count_clause(len(objects))
    return grammar.background_clause(scene.background, scene.texture)
