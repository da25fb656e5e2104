"""Atoms: the smallest things that a caption asserts, whether they are true of a scene, and how to say them.

    (shape | colour | size, cell, value)     (background | texture, "", value)     (count, "", "three")
    (relation, "left of" | "above", (A, B))  (exists, "", thing without a place)   (comment | junk, "", text)

``say`` gives each atom one canonical sentence, which reads back as that atom alone: these are the units of a reference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from balcap.scenes import grammar
from balcap.scenes.grammar import Said
from balcap.scenes.world import NUMBERS, PLACES, Scene


class Atom(NamedTuple):
    """``kind``, what it is about (``key``), and what it says of it (``value``)."""

    kind: str
    key: Any
    value: Any


def pointable(atom: Atom) -> bool:
    """Everything except commentary and what cannot be read."""
    return atom.kind not in ("comment", "junk")


def verified(atom: Atom, scene: Scene) -> bool:
    """Exact test against the scene; nothing refutes a comment, nothing supports junk."""
    if atom.kind == "comment":
        return True
    if atom.kind == "exists":
        return any(fits(thing, atom.value) for thing in things(scene))
    if atom.kind == "relation":
        return _related(atom, scene)
    return atom in facts(scene)


def fits(known: Said, described: Said) -> bool:
    """Whether a description without a place is true of what is known: all that it states is so."""
    return all(
        wanted is None or wanted == have
        for wanted, have in (
            (described.shape, known.shape),
            (described.colour, known.colour),
            (described.size, known.size),
        )
    )


@lru_cache(maxsize=1024)
def things(scene: Scene) -> tuple[Said, ...]:
    """The things of a scene, completely described."""
    return tuple(Said(thing.shape, thing.colour, thing.size, thing.cell) for thing in scene.things)


@lru_cache(maxsize=1024)
def facts(scene: Scene) -> frozenset[Atom]:
    """Every true atom of a scene but relations and mentions without a place."""
    found = [atom for thing in things(scene) for atom in placed(thing)]
    found += [Atom("background", "", scene.background), Atom("texture", "", scene.texture)]
    return frozenset([*found, Atom("count", "", NUMBERS[len(scene.things) - 1])])


def placed(said: Said) -> list[Atom]:
    """Up to three atoms of a thing with a place."""
    attributes = (("shape", said.shape), ("colour", said.colour), ("size", said.size))
    return [Atom(kind, said.cell, value) for kind, value in attributes if value is not None]


def relation(first: Said, word: str, second: Said) -> Atom:
    """The atom of a relation; "right of" and "below" are turned round."""
    first, second = Said(first.shape, first.colour, first.size), Said(second.shape, second.colour, second.size)
    if word in ("right of", "below"):
        first, word, second = second, grammar.INVERSE[word], first
    return Atom("relation", word, (first, second))


def holds(word: str, first: int, second: int) -> bool:
    """Whether cell ``first`` is left of, or above, cell ``second``."""
    return first % 3 < second % 3 if word == "left of" else first // 3 < second // 3


def _related(atom: Atom, scene: Scene) -> bool:
    first, second = atom.value
    return any(
        fits(a, first) and fits(b, second) and holds(atom.key, a.cell or 0, b.cell or 0)
        for a in things(scene)
        for b in things(scene)
    )


def say(atom: Atom) -> str:
    """The canonical sentence of an atom; junk is quoted as it stands."""
    kind, key, value = atom
    if kind in ("comment", "junk"):
        return str(value)
    if kind == "shape":
        clause = f"there is {grammar.article(value)} {value} at the {PLACES[key]}"
    elif kind in ("colour", "size"):
        clause = f"the shape at the {PLACES[key]} is {value}"
    elif kind in ("background", "texture"):
        clause = grammar.background_clause(value, None)
    elif kind == "count":
        clause = grammar.count_clause(NUMBERS.index(value) + 1)
    elif kind == "relation":
        clause = grammar.relation_clause(value[0], key, value[1])
    else:
        clause = grammar.unplaced_clause(value)
    return grammar.sentence(clause)
