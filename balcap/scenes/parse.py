"""The tolerant parser: what a caption asserts, however badly it is written.

    parse("A red circle sits at the top-left and background striped.").atoms()
    [(shape, 0, circle), (colour, 0, red), (texture, "", striped)]

It looks for key words only and never fails; whether the text is well formed is the strict grammar's question. Two
parsers are needed so that a fluent lie and a broken truth differ in different rewards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from balcap.scenes import grammar
from balcap.scenes.atoms import Atom, placed, pointable, relation, say
from balcap.scenes.clauses import KIND, clauses, sentences
from balcap.scenes.grammar import Said
from balcap.scenes.world import PLACES

RELATION_WORD = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
EMPTY_WORDS = {"a", "an", "the", "is", "are", "at", "of", "this"}
CELL = {place: cell for cell, place in enumerate(PLACES)}


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause (lower case, one space apart) and what it asserts, at least one atom."""

    text: str
    atoms: tuple[Atom, ...]


@dataclass(frozen=True, slots=True)
class Sentence:
    """``faults``: what is wrong between the clauses (see ``balcap.scenes.clauses``); an empty sentence is one."""

    clauses: tuple[Clause, ...]
    faults: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A parsed caption; ``stopped``: whether it ends with a full stop."""

    sentences: tuple[Sentence, ...]
    stopped: bool

    def clauses(self) -> Iterator[Clause]:
        """All clauses in order."""
        for sentence in self.sentences:
            yield from sentence.clauses

    def atoms(self) -> list[Atom]:
        """All atoms in order; what is said twice is there twice."""
        return [atom for clause in self.clauses() for atom in clause.atoms]


@lru_cache(maxsize=8192)
def parse(text: str) -> Reading:
    """Read any text; never raises."""
    split, stopped = sentences(text)
    return Reading(tuple(_sentence(words) for words in split), stopped)


def split_units(caption: str) -> tuple[str, ...]:
    """The units of a reference: one canonical sentence per pointable atom, each once."""
    return tuple(dict.fromkeys(say(atom) for atom in parse(caption).atoms() if pointable(atom)))


def _sentence(words: list[str]) -> Sentence:
    parts, faults = clauses(words)
    return Sentence(tuple(Clause(" ".join(part), _atoms(part)) for part in parts), faults)


def _atoms(words: list[str]) -> tuple[Atom, ...]:
    """What a clause asserts: by its head, or else a comment or junk."""
    before, word, after = _sides(words)
    if word is not None:
        found = _relation(before, word, after)
    elif before.get("head") == "background":
        found = [Atom(kind, "", before[slot]) for kind, slot in BACKGROUND_SLOTS if slot in before]
    elif before.get("head") in ("shape", "shapes") and "number" in before:
        found = [Atom("count", "", before["number"])]
    else:
        found = _object(before)
    return tuple(found) or (_comment_or_junk(words),)


BACKGROUND_SLOTS = (("background", "colour"), ("texture", "texture"))


def _sides(words: list[str]) -> tuple[dict[str, str], str | None, dict[str, str]]:
    """Key words before and after the relation word, by kind, and that word."""
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    side, found = before, None
    for word in words:
        kind = KIND.get(word)
        if kind == "relation":
            side, found = after, RELATION_WORD[word]
        elif kind in ("shape", "background", "count"):
            side["head"] = word
        elif kind is not None:
            side[kind] = word
    return before, found, after


def _said(side: dict[str, str]) -> Said:
    head = side.get("head")
    return Said(
        shape=head if KIND.get(head or "") == "shape" else None,
        colour=side.get("colour"),
        size=side.get("size"),
        cell=CELL.get(side.get("place", "")),
    )


def _object(side: dict[str, str]) -> list[Atom]:
    """Placed attributes, or a mention without a place; nothing if there is neither place nor head."""
    said = _said(side)
    if said.cell is not None:
        return placed(said)
    if said.shape or ("head" in side and (said.colour or said.size)):
        return [Atom("exists", "", said)]
    return []


def _relation(before: dict[str, str], word: str, after: dict[str, str]) -> list[Atom]:
    """The relation if both sides have a shape, and what is placed on the way."""
    first, second = _said(before), _said(after)
    found = [atom for said in (first, second) if said.cell is not None for atom in placed(said)]
    if first.shape and second.shape:
        found.append(relation(first, word, second))
    return found


def _comment_or_junk(words: list[str]) -> Atom:
    comment = COMMENTS.get(frozenset(words) - EMPTY_WORDS)
    return Atom("comment", "", comment) if comment else Atom("junk", "", " ".join(words))


COMMENTS = {frozenset(grammar.comment_clause(text).split()) - EMPTY_WORDS: text for text in grammar.COMMENTARY}
"""Comments by the words that make them, so that one with a grammar fault is still a comment."""
