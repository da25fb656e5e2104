"""Words of English text without a language package: content words, a light stemmer, statements, nouns by position.

    content_words("A slender finial tops the dome.")     ("slender", "finial", "top", "dom")
    nouns(("A slender finial tops the dome.",))          {"finial", "dom"}

Stems are keys to compare, not words to show. The rules are small on purpose: what they cannot do is listed in
``balcap.judge.lexical``.
"""

from __future__ import annotations

import re
from functools import lru_cache


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


AUXILIARIES = _set(
    "is are was were be been being am has have had do does did can could may might will would shall should must "
    "seem seems appear appears"
)
FUNCTION_WORDS = AUXILIARIES | _set(
    "a an the this that these those it its itself they their them he his him she her there here one's who whom whose "
    "which what where when how if of in on at to from by with without within for and or but nor as into onto over "
    "under up down out off about than then so such while because also just very more most much many some any each "
    "every both all other another same own only too quite rather still even not no nothing near through toward "
    "towards across along against between beside beneath around among i you we us our your my me"
)
"""Words that carry no content of their own; they end the runs in which :func:`nouns` looks for heads."""
PLACES = _set("above below behind")
"""Prepositions that are content (they can be wrong), but end a run like a function word."""

_CLASSES = (
    "red orange yellow green blue purple violet pink brown black white grey gray beige tan gold golden silver silvery "
    "cream turquoise lilac",
    "one two three four five six seven eight nine ten single dozen several",
    "left right",
    "top bottom",
    "upper lower",
    "above below",
    "front behind",
    "small tiny large big huge",
    "dark bright pale light",
)
_META = "picture photo photograph image frame scene view viewer composition caption foreground background"
"""What a text says of itself as a picture; no visible thing, so never a noun to point at."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?|[.,;:!?]")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_STATEMENT = re.compile(r",\s+(?:and|but|while|which|with|where)\s+|\s+and\s+|,\s+")
_CLAUSE = re.compile(r"[,;:]\s+|\s+(?:and|but|while|then)\s+")
STATEMENT_WORDS = 3
"""A part of a sentence is a statement of its own only with this many different content words."""
CLAUSE_WORDS = 2
"""Likewise for the clauses in which repetition and run-ons are counted."""


def _lower(text: str) -> str:
    return text.lower().replace("’", "'")


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """Strip possessive, plural and the endings -ing, -ed, -ly, -ish: ``towers`` and ``tower's`` both give ``tower``."""
    word = word.removesuffix("'s")
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "ches", "shes", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2:
        word = word[:-1]
    for ending in ("ing", "ed", "ly", "ish"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest):
            doubled = len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "lsz"
            word = rest[:-1] if doubled else rest
            break
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


CLASSES = tuple(frozenset(map(stem, words.split())) for words in _CLASSES)
"""Sets of stems that exclude each other: a statement may not name one where the reference names another."""
MODIFIERS = frozenset().union(*CLASSES)
META = frozenset(map(stem, _META.split()))


@lru_cache(maxsize=65536)
def content_words(text: str) -> tuple[str, ...]:
    """Stems of the words that are not function words, in order, repetitions included."""
    return tuple(stem(word) for word in _WORD.findall(_lower(text)) if word not in FUNCTION_WORDS)


def sentences(text: str) -> tuple[str, ...]:
    """Parts between full stops, semicolons, exclamation and question marks, or line ends, if they hold any content."""
    return tuple(part.strip() for part in _SENTENCE.split(text) if content_words(part))


def statements(text: str) -> tuple[str, ...]:
    """Sentences, cut at commas and ``and`` wherever both sides hold :data:`STATEMENT_WORDS` content words."""
    return tuple(part for sentence in sentences(text) for part in _parts(sentence, _STATEMENT, STATEMENT_WORDS))


def clauses(sentence: str) -> tuple[str, ...]:
    """Parts of a sentence between commas, colons and joining words that hold :data:`CLAUSE_WORDS` content words."""
    return tuple(part for part in _CLAUSE.split(sentence) if len(set(content_words(part))) >= CLAUSE_WORDS)


def _parts(sentence: str, border: re.Pattern[str], least: int) -> list[str]:
    """Cut at ``border`` where what stands before and the next piece hold ``least`` different content words each."""
    cuts = [*border.finditer(sentence)]
    ends = [cut.start() for cut in cuts] + [len(sentence)]
    parts, start = [], 0
    for cut, end in zip(cuts, ends[1:], strict=True):
        before, following = sentence[start : cut.start()], sentence[cut.end() : end]
        if min(len(set(content_words(before))), len(set(content_words(following)))) >= least:
            parts.append(before.strip(" ,"))
            start = cut.end()
    return [*parts, sentence[start:].strip(" ,")]


@lru_cache(maxsize=8192)
def nouns(texts: tuple[str, ...]) -> frozenset[str]:
    """Stems of the nouns of some short statements, found by position: the heads of their runs of content words.

    A run ends at a function word or a punctuation mark. Its head is its last word; the first run of a statement holds
    subject and verb ("A slender finial tops | the dome"), so that its head is the last word but one, unless an
    auxiliary, ``of``, ``and`` or the end follows. A run behind an auxiliary is a predicate ("is | cloudless") and has
    no head. Colours, numbers, directions and sizes are no nouns, and neither are words for the picture itself.
    """
    heads = {head for text in texts for head in _heads(text)}
    return frozenset(heads) - MODIFIERS - META


def _heads(text: str) -> list[str]:
    heads: list[str] = []
    run: list[str] = []
    before, first, predicate = "", True, False
    for token in [*_TOKEN.findall(_lower(text)), "."]:
        if token[0].isalnum() and token not in FUNCTION_WORDS | PLACES:
            run.append(token)
            continue
        if run and before not in ("and", "or"):  # "is blue and cloudless" is one predicate
            predicate = before in AUXILIARIES | {"not", "also", "very"}
        if run and not predicate:
            verb = first and len(run) > 1 and token[0].isalnum() and token not in AUXILIARIES | {"of", "and"}
            heads.append(stem(run[-2] if verb else run[-1]))
        first = first and not run
        run, before = [], token
    return heads
