"""Recall's question: which units of a reference does a caption state?

Placed attributes, background and count must be said as they are; a relation or a mention without a place is covered
when the caption says at least as much. What could be inferred from places is not covered: coverage is about statements.
"""

from __future__ import annotations

from collections.abc import Iterable

from balcap.scenes.atoms import Atom, fits
from balcap.scenes.grammar import Said
from balcap.scenes.parse import parse


def covered(units: Iterable[str], caption: str) -> tuple[bool, ...]:
    """One verdict per unit; a unit that says several things is covered when all of them are."""
    said = parse(caption).atoms()
    known = set(said)
    return tuple(
        bool(wanted := parse(unit).atoms()) and all(atom in known or implied(atom, said) for atom in wanted)
        for unit in units
    )


def implied(atom: Atom, said: Iterable[Atom]) -> bool:
    """Whether a relation, or a mention without a place, repeats in part what is said already."""
    if atom.kind == "relation":
        first, second = atom.value
        return any(
            other.kind == "relation"
            and other.key == atom.key
            and fits(other.value[0], first)
            and fits(other.value[1], second)
            for other in said
        )
    return atom.kind == "exists" and any(fits(thing, atom.value) for thing in mentioned(said))


def mentioned(atoms: Iterable[Atom]) -> list[Said]:
    """Every thing that the atoms speak of: the placed ones put together, contradicting values side by side."""
    found = [atom.value for atom in atoms if atom.kind == "exists"]
    cells: dict[int, dict[str, list[str | None]]] = {}
    for atom in atoms:
        if atom.kind in ("shape", "colour", "size"):
            cells.setdefault(atom.key, {}).setdefault(atom.kind, []).append(atom.value)
    for cell, values in cells.items():
        shapes, colours, sizes = (list(dict.fromkeys(values.get(kind, [None]))) for kind in ("shape", "colour", "size"))
        found += [Said(shape, colour, size, cell) for shape in shapes for colour in colours for size in sizes]
    return found
