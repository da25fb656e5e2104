"""How facts are put into words, and the strict grammar that says whether a sentence is well formed.

    object      A [small] [red] circle sits at the top-left.  |  At the top-left there is a small red circle.
    unplaced    The picture shows a red circle.
    relation    The red circle is left of the blue square.
    count       There are three shapes.
    background  The background is striped grey.
    commentary  sixteen fixed sentences: true of any picture, and of no use

Two clauses may be joined by "and". Words are tokens, so is the full stop; places are single words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from balcap.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, PLACES, SHAPES, SIZES, TEXTURES

FUNCTION_WORDS = "a an the at there is are of picture shows background shape shapes left right above below and"
VERBS = ("sits", "rests", "appears", "lies", "is")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COMMENTARY = (
    "The scene feels calm.",
    "The layout adds depth.",
    "This is a complete description.",
    "The composition looks balanced.",
    "The colours work well together.",
    "The mood is quiet yet gentle.",
    "The overall effect is pleasant.",
    "Everything seems carefully arranged.",
    "The contrast draws the eye.",
    "A sense of order prevails.",
    "The design invites reflection.",
    "The image tells a story.",
    "The style is simple yet modern.",
    "The viewer feels at ease.",
    "The balance creates harmony.",
    "Nothing here is accidental.",
)


@dataclass(frozen=True, slots=True)
class Said:
    """A thing as somebody describes it: what is ``None`` is left out."""

    shape: str | None
    colour: str | None = None
    size: str | None = None
    cell: int | None = None

    def noun(self) -> str:
        """``small red circle``."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "shape") if word)


def article(noun: str) -> str:
    """``a`` or ``an``, whichever the next word wants."""
    return "an" if noun[0] in "aeiou" else "a"


def sentence(clause: str) -> str:
    """A clause as a sentence: capital, full stop."""
    return clause[0].upper() + clause[1:] + "."


def text(clauses: Iterable[str]) -> str:
    """One sentence per clause."""
    return " ".join(sentence(clause) for clause in clauses)


def object_clause(said: Said, verb: str) -> str:
    """``a red circle sits at the top-left``; the thing must have a cell."""
    assert said.cell is not None
    return f"{article(said.noun())} {said.noun()} {verb} at the {PLACES[said.cell]}"


def place_first_clause(said: Said) -> str:
    """``at the top-left there is a red circle``; the thing must have a cell."""
    assert said.cell is not None
    return f"at the {PLACES[said.cell]} there is {article(said.noun())} {said.noun()}"


def unplaced_clause(said: Said) -> str:
    """``the picture shows a red circle``."""
    return f"the picture shows {article(said.noun())} {said.noun()}"


def relation_clause(first: Said, relation: str, second: Said) -> str:
    """``the red circle is left of the blue square``."""
    return f"the {first.noun()} is {relation} the {second.noun()}"


def count_clause(count: int) -> str:
    """``there are three shapes``."""
    return "there is one shape" if count == 1 else f"there are {NUMBERS[count - 1]} shapes"


def background_clause(colour: str | None, texture: str | None) -> str:
    """``the background is striped grey``; at least one of the two must be given."""
    return " ".join(word for word in ("the background is", texture, colour) if word)


def comment_clause(comment: str) -> str:
    """A sentence of :data:`COMMENTARY` as a clause."""
    return comment[0].lower() + comment[1:-1]


def _words() -> tuple[str, ...]:
    """Every word that any sentence form can use, and the full stop."""
    comments = [word for comment in COMMENTARY for word in comment_clause(comment).split()]
    facts = (*SHAPES, *COLOURS, *SIZES, *BACKGROUNDS, *TEXTURES, *PLACES, *NUMBERS, *VERBS)
    return tuple(dict.fromkeys((".", *FUNCTION_WORDS.split(), *facts, *comments)))


VOCABULARY: tuple[str, ...] = _words()
"""All tokens, lower case."""


def _any(words: Iterable[str]) -> str:
    return "(?:" + "|".join(words) + ")"


def _strict() -> re.Pattern[str]:
    def vowel(words: Iterable[str], wanted: bool) -> list[str]:
        return [word for word in words if (word[0] in "aeiou") == wanted]

    rest = f"(?:{_any(COLOURS)} )?{_any(SHAPES)}"
    plain = f"(?:{_any(SIZES)} )?{rest}"
    # "an" before orange, the only word of a noun that begins with a vowel; "a" before everything else
    an = f"an {_any(vowel(COLOURS, True))} {_any(SHAPES)}"
    a = f"a (?:{_any(SIZES)} {rest}|{_any(vowel(COLOURS, False))} {_any(SHAPES)}|{_any(SHAPES)})"
    some, place = f"(?:{an}|{a})", f"at the {_any(PLACES)}"
    clause = _any(
        [
            f"{some} {_any(VERBS)} {place}",
            f"{place} there is {some}",
            f"the picture shows {some}",
            f"the {plain} is {_any(RELATIONS)} the {plain}",
            "there is one shape",
            f"there are {_any(NUMBERS[1:])} shapes",
            f"the background is {_any([f'{_any(TEXTURES)} {_any(BACKGROUNDS)}', *TEXTURES, *BACKGROUNDS])}",
            *(comment_clause(comment) for comment in COMMENTARY),
        ]
    )
    return re.compile(clause)


STRICT = _strict()


def well_formed(clause: str) -> bool:
    """Whether a clause (lower case, one space apart, no stop) obeys the grammar."""
    return STRICT.fullmatch(clause) is not None
