"""The noisy captioner: what supervised training imitates, with every fault that reinforcement learning should remove.

    noisy_caption(scene, seed)                  omissions, errors, inventions, comments, repeats, broken grammar
    noisy_caption(scene, seed, noise=1 / 3)     the same with a third of every fault; an opponent in the arena

Rates are those of ``miniature``, section 2, at ``noise=1``; omissions count as faults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from balcap.scenes import grammar
from balcap.scenes.grammar import Said
from balcap.scenes.teacher import object_form, other, pick_relation
from balcap.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, PLACES, SHAPES, SIZES, TEXTURES, Scene, Thing

PLACE_FIRST = 0.5
LEFT_OUT, NO_COLOUR, NO_SIZE = 0.32, 0.1, 0.4
WRONG_COLOUR, NEIGHBOUR_HUE, WRONG_SHAPE, WRONG_SIZE, WRONG_CELL = 0.17, 0.6, 0.13, 0.2, 0.09
INVENTED_MEAN, UNPLACED = 0.35, 0.25
RELATION, WRONG_RELATION = 0.35, 0.35
COUNT, WRONG_COUNT = 0.35, 0.35
BACKGROUND, WRONG_BACKGROUND, WRONG_TEXTURE = 0.5, 0.15, 0.22
REPEATED, SHUFFLED = 0.15, 0.5
COMMENTS, COMMENT_ANYWHERE = (0.30, 0.35, 0.22, 0.13), 0.3
RAMBLE, RAMBLE_INVENTED = 0.08, 0.5
GRAMMAR, JOINED = 0.22, 0.12


@dataclass(frozen=True)
class _Writer:
    """One caption's random stream and the share of every fault rate."""

    scene: Scene
    rng: Random
    noise: float

    def fault(self, rate: float) -> bool:
        return self.rng.random() < rate * self.noise

    def chance(self, rate: float) -> bool:
        return self.rng.random() < rate


def noisy_caption(scene: Scene, seed: int, noise: float = 1.0) -> str:
    """A faulty caption of a scene; equal arguments give equal text, never an empty one. ``noise`` in [0, 1]."""
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise must be in [0, 1], got {noise}")
    w = _Writer(scene, Random(f"noisy {seed} {noise} {scene.noise_seed}"), noise)
    clauses = _clauses(w)
    if w.fault(REPEATED):
        clauses.insert(w.rng.randrange(len(clauses) + 1), w.rng.choice(clauses))
    if w.fault(SHUFFLED):
        w.rng.shuffle(clauses)
    for comment in _comments(w):
        at = w.rng.randrange(len(clauses) + 1) if w.chance(COMMENT_ANYWHERE) else len(clauses)
        clauses.insert(at, comment)
    return grammar.text(_join([_break(w, clause) for clause in clauses], w))


def _clauses(w: _Writer) -> list[str]:
    """What is said of the scene, in the teacher's order."""
    objects = [_see(w, thing) for thing in w.scene.things if not w.fault(LEFT_OUT)]
    while w.chance(_invention_rate(w.noise)):
        objects.append(_invent(w))
    clauses = []
    if w.chance(COUNT):
        clauses.append(grammar.count_clause(_count(w)))
    clauses += [object_form(said, w.rng, PLACE_FIRST) for said in objects]
    if w.fault(UNPLACED):
        clauses.append(grammar.unplaced_clause(replace(_glance(w), cell=None)))
    if w.chance(RELATION) and (relation := pick_relation(objects, w.rng)):
        clauses.append(_reverse(relation) if w.fault(WRONG_RELATION) else relation)
    if not w.fault(1 - BACKGROUND) or not clauses:
        clauses.append(_background(w))
    if w.fault(RAMBLE):
        clauses += [_ramble(w) for _ in range(w.rng.randint(2, 5))]
    return clauses


def _see(w: _Writer, thing: Thing) -> Said:
    """A thing with its attributes perhaps left out, confused or moved."""
    colour = thing.colour
    if w.fault(WRONG_COLOUR):
        colour = _neighbour(w, colour) if w.chance(NEIGHBOUR_HUE) else other(w.rng, colour, COLOURS)
    return Said(
        shape=other(w.rng, thing.shape, SHAPES) if w.fault(WRONG_SHAPE) else thing.shape,
        colour=None if w.fault(NO_COLOUR) else colour,
        size=None if w.fault(NO_SIZE) else other(w.rng, thing.size, SIZES) if w.fault(WRONG_SIZE) else thing.size,
        cell=w.rng.randrange(len(PLACES)) if w.fault(WRONG_CELL) else thing.cell,
    )


def _neighbour(w: _Writer, colour: str) -> str:
    return COLOURS[(COLOURS.index(colour) + w.rng.choice((-1, 1))) % len(COLOURS)]


def _invention_rate(noise: float) -> float:
    """Success rate of a geometric count whose mean is ``INVENTED_MEAN * noise``."""
    mean = INVENTED_MEAN * noise
    return mean / (1 + mean)


def _invent(w: _Writer) -> Said:
    """A thing out of nothing."""
    return Said(
        shape=w.rng.choice(SHAPES),
        colour=None if w.fault(NO_COLOUR) else w.rng.choice(COLOURS),
        size=None if w.fault(NO_SIZE) else w.rng.choice(SIZES),
        cell=w.rng.randrange(len(PLACES)),
    )


def _count(w: _Writer) -> int:
    true = len(w.scene.things)
    if not w.fault(WRONG_COUNT):
        return true
    return min(max(true + w.rng.choice((-1, 1)), 1), len(NUMBERS)) if true > 1 else 2


def _reverse(relation: str) -> str:
    for word, opposite in grammar.INVERSE.items():
        if f" {word} " in relation:
            return relation.replace(f" {word} ", f" {opposite} ")
    raise AssertionError(relation)


def _background(w: _Writer) -> str:
    colour, texture = w.scene.background, w.scene.texture
    if w.fault(WRONG_BACKGROUND):
        colour = other(w.rng, colour, BACKGROUNDS)
    if w.fault(WRONG_TEXTURE):
        texture = other(w.rng, texture, TEXTURES)
    return grammar.background_clause(colour, texture)


def _glance(w: _Writer) -> Said:
    """Any thing of the scene once more, whether it was mentioned or not."""
    return _see(w, w.rng.choice(w.scene.things))


def _ramble(w: _Writer) -> str:
    return object_form(_invent(w) if w.chance(RAMBLE_INVENTED) else _glance(w), w.rng, PLACE_FIRST)


def _comments(w: _Writer) -> list[str]:
    """Zero to three different comments."""
    number = w.rng.choices(range(len(COMMENTS)), COMMENTS)[0] if w.chance(w.noise) else 0
    return [grammar.comment_clause(comment) for comment in w.rng.sample(grammar.COMMENTARY, number)]


def _break(w: _Writer, clause: str) -> str:
    """A clause with one grammar fault now and then, if it has the word that the fault needs."""
    if not w.fault(GRAMMAR):
        return clause
    words = clause.split()
    fault = w.rng.choice((_drop_article, _drop_verb, _wrong_agreement, _wrong_article, _double_word))
    return " ".join(fault(words, w.rng))


def _drop(words: list[str], kind: tuple[str, ...], rng: Random) -> list[str]:
    places = [i for i, word in enumerate(words) if word in kind]
    if not places:
        return words
    at = rng.choice(places)
    return words[:at] + words[at + 1 :]


def _drop_article(words: list[str], rng: Random) -> list[str]:
    return _drop(words, ("a", "an", "the"), rng)


def _drop_verb(words: list[str], rng: Random) -> list[str]:
    return _drop(words, (*grammar.VERBS, "are", "shows"), rng)


def _swap(words: list[str], pairs: dict[str, str], rng: Random) -> list[str]:
    places = [i for i, word in enumerate(words) if word in pairs]
    if not places:
        return words
    at = rng.choice(places)
    return [*words[:at], pairs[words[at]], *words[at + 1 :]]


def _wrong_agreement(words: list[str], rng: Random) -> list[str]:
    return _swap(words, {"is": "are", "are": "is", "shape": "shapes", "shapes": "shape"}, rng)


def _wrong_article(words: list[str], rng: Random) -> list[str]:
    return _swap(words, {"a": "an", "an": "a"}, rng)


def _double_word(words: list[str], rng: Random) -> list[str]:
    at = rng.randrange(len(words))
    return [*words[:at], words[at], *words[at:]]


def _join(clauses: list[str], w: _Writer) -> list[str]:
    """Now and then a clause goes on behind the one before, with "and"."""
    joined = clauses[:1]
    for clause in clauses[1:]:
        if w.fault(JOINED):
            joined[-1] += f" and {clause}"
        else:
            joined.append(clause)
    return joined
