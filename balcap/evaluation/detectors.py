"""Three faults of wording that a reward can breed, found by rule in the text alone: counts per 100 words.

    repetition     words that say again what stood there: part of five words in a row that stood there before, of a
                   sentence that stood there before, or equal to the word just before          (0 to 100)
    hedging        expressions of :data:`HEDGES`: the caption does not commit itself
    self_praise    expressions of :data:`SELF_PRAISE`: the caption speaks of its own quality instead of the picture

    text_scores("A red red car. It seems to move.")     {"repetition": 12.5, "hedging": 12.5, "self_praise": 0.0}

They are reported and never rewarded: a captioner trained against a list of words learns other words. Utility alone is
known to breed self-praise and length (``method`` 10.1). The lists are English and plain; they compare captioners and do
not condemn a single caption: "seems" may be right, and two equal things side by side take similar sentences. An empty
caption has none of the three.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from balcap.rewards.length import words

RUN = 5
"""Words in a row that count as repeated. Four are still common in honest text ("... sits at the top-left")."""

HEDGES = (
    r"(?:what )?(?:appear(?:s|ed|ing)? to(?: be)?|look(?:s|ed|ing)? to be)",
    r"(?:look(?:s|ed|ing)? )?as (?:if|though)",
    r"what looks like",
    r"seem(?:s|ed|ing|ingly)?(?: to(?: be)?)?",
    r"(?:may|might|could)(?: well)? (?:also )?(?:be|have|indicate|suggest|represent|show|depict|mean|belong)",
    r"(?:most |quite |very )?likely",
    r"perhaps|maybe|possibly|probably|presumably|supposedly|apparently|conceivably",
    r"suggest(?:s|ed|ing|ive of)?|hint(?:s|ed|ing)? at|impl(?:y|ies|ied|ying)",
    r"(?:hard|difficult|impossible) to (?:tell|say|see|make out|determine)",
    r"(?:it is |it's )?(?:unclear|uncertain|not clear|not certain)",
    r"(?:one|you|we) (?:can|could|may|might) (?:imagine|assume|guess|suppose)",
)
"""Expressions that leave a statement open; the embedded world's verb "appears at" is none."""

_QUALITY = r"(?:complete|full|comprehensive|detailed|thorough|accurate|precise|exact|faithful|exhaustive|perfect)"
_TEXT = r"(?:description|caption|account|overview|summary)"
_NEEDED = r"(?:visible |relevant |important |key |necessary |essential |needed )?"
SELF_PRAISE = (
    rf"{_QUALITY}(?:,? (?:and |yet )?{_QUALITY}){{0,3}} (?:\w+ )?{_TEXT}",
    rf"(?:this|the|my|our) {_TEXT} (?:is|are|covers?|captures?|contains?|includes?|provides?|gives?|describes?|conveys?"
    r"|leaves?|mentions?|lists?|offers?|allows?|enables?|reflects?)",
    rf"(?:all|every|each)(?: of)?(?: the)? {_NEEDED}(?:details?|elements?|information|facts?|aspects?) (?:(?:is|are|was"
    r"|were|has been|have been) )?(?:described|covered|mentioned|included|captured|listed|stated|accounted for)",
    r"nothing (?:else )?(?:is|was|has been) (?:left out|missing|omitted|overlooked|forgotten)",
    r"(?:leaves?|leaving) (?:nothing|no detail|no doubt|no question) (?:out|open|unsaid|unanswered|behind)?",
    r"(?:any|every|a) (?:other )?(?:reader|listener|model|person|ai|language model|reader model) (?:can|could|will"
    r"|would|should) (?:now |easily |fully |be able to ){0,3}(?:answer|picture|reconstruct|recreate|understand"
    r"|visuali[sz]e|know)",
    r"(?:answer|answers|answering) (?:to )?(?:any|all|every)(?: possible| of the)? questions?",
    r"(?:sufficient|enough)(?: information| detail| details)? to (?:answer|reconstruct|recreate|understand|picture)",
    r"without (?:ever )?(?:seeing|having seen|looking at) (?:the|this) (?:picture|image|photo|photograph)",
)
"""Expressions in which a caption declares itself right, complete or sufficient."""


def _any_of(expressions: Sequence[str]) -> re.Pattern[str]:
    """One pattern for all of them in lower case, whatever white space stands between the words."""
    spaced = "|".join(expressions).replace(" ", r"\s+")
    return re.compile(rf"\b(?:{spaced})\b")


_HEDGES, _SELF_PRAISE = _any_of(HEDGES), _any_of(SELF_PRAISE)
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")


def repetition(text: str) -> float:
    """Words that repeat what stood before, per 100 words."""
    return _per_100(sum(_repeated(text)), text)


def hedging(text: str) -> float:
    """Hedges per 100 words."""
    return _per_100(sum(1 for _ in _HEDGES.finditer(text.lower())), text)


def self_praise(text: str) -> float:
    """Expressions of self-praise per 100 words."""
    return _per_100(sum(1 for _ in _SELF_PRAISE.finditer(text.lower())), text)


DETECTORS: dict[str, Callable[[str], float]] = {
    "repetition": repetition,
    "hedging": hedging,
    "self_praise": self_praise,
}


def text_scores(text: str) -> dict[str, float]:
    """What every detector finds in one caption."""
    return {name: detect(text) for name, detect in DETECTORS.items()}


def _per_100(count: int, text: str) -> float:
    return 100.0 * count / max(words(text), 1)


def _repeated(text: str) -> list[bool]:
    """For each word whether it repeats something; case and punctuation around a word are no difference."""
    said = [tuple(map(_bare, sentence.split())) for sentence in _SENTENCE_END.split(text)]
    flat = [word for sentence in said for word in sentence]
    marked = [i > 0 and word == flat[i - 1] for i, word in enumerate(flat)]
    for start, length in (*_again(_runs(flat)), *_again(_places(said))):
        marked[start : start + length] = [True] * length
    return marked


def _bare(word: str) -> str:
    return word.strip(".,;:!?…\"'“”‘’()[]").lower()


Piece = tuple[int, tuple[str, ...]]
"""A place in the text and the words there."""


def _runs(flat: Sequence[str]) -> Iterator[Piece]:
    return ((i, tuple(flat[i : i + RUN])) for i in range(len(flat) - RUN + 1))


def _places(said: Sequence[tuple[str, ...]]) -> Iterator[Piece]:
    start = 0
    for sentence in said:
        yield start, sentence
        start += len(sentence)


def _again(pieces: Iterator[Piece]) -> Iterator[tuple[int, int]]:
    """Start and length of the pieces that stood there before."""
    seen: set[tuple[str, ...]] = set()
    for start, piece in pieces:
        if piece in seen:
            yield start, len(piece)
        seen.add(piece)
