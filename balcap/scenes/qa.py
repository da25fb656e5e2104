"""Questions about a scene, and their answers from a caption alone, by rule (``miniature``, section 3, item 6).

    questions = scene_questions(scene, seed=12, limit=10)
    answer(questions[0].question, questions[0].options, caption, seed=0)      index of an option, or -1

Kinds: shape, colour and size per occupied cell; background colour and texture; number of shapes; left or right of, for
one pair. Number and relation may be inferred from the things that the caption places. A caption that contradicts itself
gets one of its values by a hash of seed, question and caption, so that in expectation they share the point.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from balcap.records import CANNOT_BE_ANSWERED
from balcap.scenes.atoms import Atom, fits, relation, things
from balcap.scenes.coverage import mentioned
from balcap.scenes.grammar import Said
from balcap.scenes.parse import CELL, parse
from balcap.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, PLACES, SHAPES, SIZES, TEXTURES, Scene

SIDES = ("left of", "right of")


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A multiple-choice question; ``answer`` is the index of the right option."""

    question: str
    options: tuple[str, ...]
    answer: int


def scene_questions(scene: Scene, seed: int, limit: int) -> list[SceneQuestion]:
    """At most ``limit`` questions in a fixed order, those left out drawn by seed; options in random order."""
    rng = Random(f"questions {seed} {scene.noise_seed}")
    found = [question for thing in things(scene) for question in _about(thing)]
    found.append(("What colour is the background?", BACKGROUNDS, scene.background))
    found.append(("What texture is the background?", TEXTURES, scene.texture))
    count = len(scene.things)
    found.append(("How many shapes are there?", NUMBERS[: max(3, count)], NUMBERS[count - 1]))
    if pair := _pair(scene, rng):
        found.append(pair)
    kept = sorted(rng.sample(range(len(found)), min(limit, len(found))))
    return [_shuffled(*found[i], rng) for i in kept]


def _about(thing: Said) -> list[tuple[str, tuple[str, ...], str]]:
    assert thing.cell is not None and thing.shape and thing.colour and thing.size
    place = PLACES[thing.cell]
    return [
        (f"What shape is at the {place}?", SHAPES, thing.shape),
        (f"What colour is the shape at the {place}?", COLOURS, thing.colour),
        (f"What size is the shape at the {place}?", SIZES, thing.size),
    ]


def _pair(scene: Scene, rng: Random) -> tuple[str, tuple[str, ...], str] | None:
    """Left or right of, for two things in different columns whose colour and shape name one thing each."""
    named = [(Said(thing.shape, thing.colour), thing.cell or 0) for thing in things(scene)]
    nouns = [said.noun() for said, _ in named]
    unique = [(said, cell) for said, cell in named if nouns.count(said.noun()) == 1]
    pairs = [(a, b) for a in unique for b in unique if a[1] % 3 != b[1] % 3]
    if not pairs:
        return None
    (first, cell), (second, other) = rng.choice(pairs)
    question = f"Is the {first.noun()} left of or right of the {second.noun()}?"
    return question, SIDES, SIDES[cell % 3 > other % 3]


def _shuffled(question: str, options: tuple[str, ...], right: str, rng: Random) -> SceneQuestion:
    mixed = tuple(rng.sample(options, len(options)))
    return SceneQuestion(question, mixed, mixed.index(right))


def answer(question: str, options: Sequence[str], caption: str, seed: int) -> int:
    """Index of the option that the caption supports, ``CANNOT_BE_ANSWERED`` if it is silent or says something else.

    Raises ``ValueError`` if the question is none of :func:`scene_questions`.
    """
    values = _values(_understand(question), parse(caption).atoms())
    if not values:
        return CANNOT_BE_ANSWERED
    value = values[_draw(f"{seed}|{question}|{caption}", len(values))]
    return list(options).index(value) if value in options else CANNOT_BE_ANSWERED


def _draw(text: str, n: int) -> int:
    if n == 1:
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % n


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a question wants: values of ``kind`` at ``key``, or the side on which ``first`` is of ``second``."""

    kind: str
    key: int | str = ""
    first: Said | None = None
    second: Said | None = None


PATTERNS = (
    (re.compile(r"What (shape|colour|size) is (?:the shape )?at the ([\w-]+)\?"), "thing"),
    (re.compile(r"What (colour|texture) is the background\?"), "background"),
    (re.compile(r"How many shapes are there\?"), "count"),
    (re.compile(r"Is the (\w+) (\w+) left of or right of the (\w+) (\w+)\?"), "side"),
)


@lru_cache(maxsize=4096)
def _understand(question: str) -> _Asked:
    for pattern, kind in PATTERNS:
        match = pattern.fullmatch(question)
        if match is None:
            continue
        if kind == "thing" and match[2] in CELL:
            return _Asked(match[1], CELL[match[2]])
        if kind == "background":
            return _Asked("background" if match[1] == "colour" else "texture")
        if kind == "count":
            return _Asked("count")
        if kind == "side":
            return _Asked("side", "", Said(match[2], match[1]), Said(match[4], match[3]))
    raise ValueError(f"not a question about a scene: {question!r}")


def _values(asked: _Asked, atoms: list[Atom]) -> list[str]:
    """The different values that a caption offers, in order."""
    if asked.first and asked.second:
        return _sides(asked.first, asked.second, atoms)
    said = [atom.value for atom in atoms if atom.kind == asked.kind and atom.key == asked.key]
    if asked.kind == "count" and not said:
        cells = {atom.key for atom in atoms if atom.kind in ("shape", "colour", "size")}
        said = [NUMBERS[len(cells) - 1]] if cells else []
    return list(dict.fromkeys(said))


def _sides(first: Said, second: Said, atoms: list[Atom]) -> list[str]:
    """Sides that are stated, or else those that follow from the places of two things that fit."""
    stated = [side for side in SIDES if _stated(relation(first, side, second), atoms)]
    if stated:
        return stated
    known = [thing for thing in mentioned(atoms) if thing.cell is not None]
    return list(
        dict.fromkeys(
            SIDES[a.cell % 3 > b.cell % 3]
            for a in known
            for b in known
            if fits(a, first) and fits(b, second) and a.cell is not None and b.cell is not None
            if a.cell % 3 != b.cell % 3
        )
    )


def _stated(wanted: Atom, atoms: list[Atom]) -> bool:
    return any(
        atom.kind == "relation"
        and atom.key == wanted.key
        and fits(atom.value[0], wanted.value[0])
        and fits(atom.value[1], wanted.value[1])
        for atom in atoms
    )
