"""The reference writer: correct grammar, overview to background, almost everything stated, almost all of it true.

    teacher_caption(scene, seed)     "There are two shapes. A small red circle sits at the top-left. ..."

Rates are those of ``miniature``, section 2. Order: count, objects in reading order, one relation, background.
"""

from __future__ import annotations

from random import Random

from balcap.scenes import grammar
from balcap.scenes.grammar import Said
from balcap.scenes.world import COLOURS, SIZES, Scene, Thing

OBJECT, COLOUR, SIZE, COUNT, RELATION, BACKGROUND, TEXTURE = 0.93, 0.96, 0.85, 0.75, 0.8, 0.92, 0.85
"""How often each fact is stated."""
WRONG = 0.03
"""How often a stated colour or size is wrong; shape, place, number and background never are."""
PLACE_FIRST = 0.5


def teacher_caption(scene: Scene, seed: int) -> str:
    """The reference caption of a scene; equal scene and seed give equal text, never an empty one."""
    rng = Random(f"teacher {seed} {scene.noise_seed}")
    objects = [describe(thing, rng) for thing in scene.things if rng.random() < OBJECT]
    clauses = []
    if rng.random() < COUNT:
        clauses.append(grammar.count_clause(len(scene.things)))
    clauses += [object_form(said, rng, PLACE_FIRST) for said in objects]
    if rng.random() < RELATION and (relation := pick_relation(objects, rng)):
        clauses.append(relation)
    if rng.random() < BACKGROUND or not clauses:
        texture = scene.texture if rng.random() < TEXTURE else None
        clauses.append(grammar.background_clause(scene.background, texture))
    return grammar.text(clauses)


def describe(thing: Thing, rng: Random) -> Said:
    """A thing as the teacher sees it."""
    return Said(
        shape=thing.shape,
        colour=_maybe(rng, COLOUR, thing.colour, COLOURS),
        size=_maybe(rng, SIZE, thing.size, SIZES),
        cell=thing.cell,
    )


def object_form(said: Said, rng: Random, place_first: float) -> str:
    """One of the two forms of an object sentence."""
    if rng.random() < place_first:
        return grammar.place_first_clause(said)
    return grammar.object_clause(said, rng.choice(grammar.VERBS))


def true_relations(first: int, second: int) -> list[str]:
    """The relations that hold between two cells."""
    (row, column), (other_row, other_column) = divmod(first, 3), divmod(second, 3)
    found = []
    if column != other_column:
        found.append("left of" if column < other_column else "right of")
    if row != other_row:
        found.append("above" if row < other_row else "below")
    return found


def pick_relation(objects: list[Said], rng: Random) -> str | None:
    """A true relation between two things that colour and shape tell apart, or ``None``."""
    named = [Said(said.shape, said.colour, None, said.cell) for said in objects]
    found = [
        (a, relation, b)
        for a in named
        for b in named
        if a.noun() != b.noun() and a.cell is not None and b.cell is not None
        for relation in true_relations(a.cell, b.cell)
    ]
    return grammar.relation_clause(*rng.choice(found)) if found else None


def _maybe(rng: Random, rate: float, true: str, values: tuple[str, ...]) -> str | None:
    if rng.random() >= rate:
        return None
    return other(rng, true, values) if rng.random() < WRONG else true


def other(rng: Random, true: str, values: tuple[str, ...]) -> str:
    """Any value but the true one."""
    return rng.choice([value for value in values if value != true])
