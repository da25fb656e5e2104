"""The three linguistic marks: 5 minus the flaws, at least 1. Flaws are counted, not averaged.

    clarity    2 per clause that says nothing new, 1 per run-on (more than two clauses in a sentence)
    fluency    1 per clause outside the strict grammar, or 1 per stray word in it if those are more; 1 per clause that
               begins without "and", doubled word, empty clause or sentence; 1 for no final stop
    coherency  1 per contradiction, 1 per break of the reading order, up to 2 for leaving overview -> objects ->
               relations -> background

Long texts therefore collect more of them (``miniature``, section 3). Commentary costs nothing here: keeping it out is
the task of pointability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from balcap.scenes.atoms import Atom
from balcap.scenes.coverage import implied
from balcap.scenes.grammar import VERBS, well_formed
from balcap.scenes.parse import Clause, Reading, parse
from balcap.scenes.world import PLACES

REPEAT, MAX_ORDER = 2, 2
OBJECT = ("shape", "colour", "size")
PART = {"count": 0, **dict.fromkeys(OBJECT, 1), "relation": 2, "background": 3, "texture": 3}
SAME = {"an": "a", "are": "is", "shapes": "shape", **dict.fromkeys(VERBS, "is")}
FORMS = {
    **dict.fromkeys(OBJECT, "a at the there is"),
    "exists": "the picture shows a",
    "relation": "the the is of",
    "count": "there is shape",
    "background": "the background is",
    "texture": "the background is",
    "comment": "",
}
"""The words of the sentence forms besides the facts, with those of :data:`SAME` taken for one another."""


class Flaws(NamedTuple):
    """How many flaws a caption has, by mark."""

    clarity: int
    fluency: int
    coherency: int


def flaws(caption: str) -> Flaws:
    """Count the flaws of a text; one that says nothing has enough for the worst marks."""
    reading = parse(caption)
    if next(reading.clauses(), None) is None:
        return Flaws(4, 4, 4)
    return Flaws(_clarity(reading), _fluency(reading), _coherency(reading))


def marks(caption: str) -> tuple[int, int, int]:
    """Clarity, fluency, coherency, each 1 to 5."""
    found = flaws(caption)
    return max(1, 5 - found.clarity), max(1, 5 - found.fluency), max(1, 5 - found.coherency)


def _clarity(reading: Reading) -> int:
    run_ons = sum(len(sentence.clauses) > 2 for sentence in reading.sentences)
    seen: set[Atom] = set()
    stale = 0
    for clause in reading.clauses():
        stale += _nothing_new(clause, seen)
        seen.update(clause.atoms)
    return REPEAT * stale + run_ons


def _nothing_new(clause: Clause, seen: set[Atom]) -> bool:
    return all(atom in seen or implied(atom, seen) for atom in clause.atoms)


def _fluency(reading: Reading) -> int:
    between = sum(sentence.faults for sentence in reading.sentences)
    return between + sum(clause_faults(clause) for clause in reading.clauses()) + (not reading.stopped)


def clause_faults(clause: Clause) -> int:
    """0 for a clause of the strict grammar, else its stray words, at least 1.

    Stray are the words that neither its facts nor the sentence forms of such facts need: a garbled or padded sentence
    must not cost the same as one with a missing article.
    """
    return 0 if well_formed(clause.text) else max(1, _stray(clause))


def _stray(clause: Clause) -> int:
    words = Counter(SAME.get(word, word) for word in clause.text.split())
    needed: Counter[str] = Counter()
    for atom in clause.atoms if clause.atoms[0].kind != "junk" else ():
        needed |= Counter(SAME.get(word, word) for word in f"{FORMS[atom.kind]} {_fact(atom)}".split())
    return (words - needed).total()


def _fact(atom: Atom) -> str:
    """The words that carry an atom."""
    if atom.kind == "relation":
        return f"{atom.value[0].noun()} {atom.key.split()[0]} {atom.value[1].noun()}"
    if atom.kind == "exists":
        return str(atom.value.noun())
    if atom.kind == "comment":
        return str(atom.value).lower().rstrip(".")
    return f"{PLACES[atom.key]} {atom.value}" if atom.kind in OBJECT else str(atom.value)


def _coherency(reading: Reading) -> int:
    cells = [clause.atoms[0].key for clause in reading.clauses() if _part(clause) == 1]
    parts = [part for clause in reading.clauses() if (part := _part(clause)) is not None]
    return _contradictions(reading.atoms()) + _falls(cells) + min(MAX_ORDER, _falls(parts))


def _part(clause: Clause) -> int | None:
    """Which part of a description a clause belongs to; mentions without a place, comments and junk to none."""
    return PART.get(clause.atoms[0].kind)


def _falls(values: Iterable[int]) -> int:
    return sum(later < earlier for earlier, later in pairwise(values))


def _contradictions(atoms: list[Atom]) -> int:
    """Further values of what was already said of a cell, the background or the count, and relations both ways."""
    values: dict[tuple[str, int | str], set[str]] = {}
    relations = set()
    for atom in atoms:
        if atom.kind == "relation":
            relations.add((atom.key, *atom.value))
        elif atom.kind in PART:
            values.setdefault((atom.kind, atom.key), set()).add(atom.value)
    both_ways = sum((word, second, first) in relations for word, first, second in relations) // 2
    return sum(len(found) - 1 for found in values.values()) + both_ways
