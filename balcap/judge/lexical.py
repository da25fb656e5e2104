"""Judge ``lexical``: a caption's words against the words of the reference's units. No model, no picture, no network.

    judge = Lexical()
    judgement = judge.judge("A tall brick tower stands in snow.", reference.units)

Rules (a unit, a statement and a caption count as the sets of their content words, ``balcap.judge.words``):

- *assertions* are the caption's statements: sentences, cut at commas and ``and`` where both sides say enough;
- *verified*: at least :data:`SUPPORT` of the statement's content words stand together in two units, and it names no
  colour, number, direction, size or brightness where the two units closest to it name only others of that kind;
- *pointable*: it names a noun of the units;
- *covered*: one sentence of the caption holds at least :data:`COVER` of the unit's content words;
- *clarity* = 5 - 2 per clause that says nothing new - 1 per run-on sentence, at least 1. A clause says nothing new when
  all its content words stand in one earlier clause, or one of them stands three times in itself; a sentence runs on
  with more than :data:`CLAUSES` clauses or :data:`WORDS` words.

Limits, all of them deliberate:

- it sees no picture: what the reference does not say is unverified, however true; what it says wrongly is verified;
- it reads English words, not meaning: no synonyms, no negation, no who-does-what ("the man bites the dog"); a list of
  the right words is verified and covers units; commentary that names a noun of the units counts as pointable;
- fluency, coherency and answers stay ``None``: grammar and logic cannot be counted from words.

It trains and tests the machinery on real pictures; a language model takes its place for claims about quality.
Calibration on 105 photographs (``tests/code/test_judge_lexical.py``), precision / recall / clarity: the own caption
.96 / .99 / .94, the caption of another picture of its kind .09 / .05 for the first two; with three facts replaced
precision falls from .96 to .76, with three sentences of commentary added to .74; as repetitive, ungrammatical text
clarity falls from .95 to .37; cut down to one sentence recall falls to .12.
On 840 labelled assertions, most of whose truths no reference states, verified agrees with people in 52 % (kappa .14),
pointable in 79 % (kappa .39): it ranks captions of one picture, it does not check facts.
"""

from __future__ import annotations

from functools import lru_cache

from balcap.judge.base import Counting
from balcap.judge.words import CLASSES, META, MODIFIERS, clauses, content_words, nouns, sentences, statements
from balcap.records import Assertion, Caption, Judgement, Question, Reference, Sample

SUPPORT = 0.5
COVER = 0.6
CLAUSES = 3
WORDS = 40
REPEAT_COST = 2
RUN_ON_COST = 1

Words = frozenset[str]


class Lexical(Counting):
    """The judge's seam (``balcap.records.Judge``); fills assertions, covered and clarity."""

    name = "lexical"
    revision = "1"
    fills = frozenset({"assertions", "covered", "clarity"})

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per caption, in order; ``sample``, ``questions`` and ``seed`` are not needed."""
        known: dict[str, Judgement] = {}
        for caption in captions:
            if caption.text not in known:
                known[caption.text] = self.judge(caption.text, reference.units)
        return [known[caption.text] for caption in captions]

    def judge(self, text: str, units: tuple[str, ...]) -> Judgement:
        """Judge one caption; without units only clarity is known, and the reason is counted."""
        if not units:
            self.failed("no units")
            return Judgement(clarity=clarity(text))
        made = tuple(Assertion(part, verified(part, units), pointable(part, units)) for part in statements(text))
        return Judgement(assertions=made, covered=covered(text, units), clarity=clarity(text))


@lru_cache(maxsize=4096)
def _unit_words(units: tuple[str, ...]) -> tuple[Words, ...]:
    return tuple(frozenset(content_words(unit)) for unit in units)


@lru_cache(maxsize=4096)
def _pairs(units: tuple[str, ...]) -> frozenset[Words]:
    """What two units say together: a sentence of a caption often joins two."""
    words = _unit_words(units)
    return frozenset(a | b for a in words for b in words)


def verified(statement: str, units: tuple[str, ...]) -> bool:
    """Whether the units support the statement's words and none of its exclusive words is refuted."""
    words = frozenset(content_words(statement))
    most = max((len(words & pair) for pair in _pairs(units)), default=0)
    return bool(words) and most >= SUPPORT * len(words) and not _refuted(words, _unit_words(units))


def _refuted(words: Words, units: tuple[Words, ...]) -> bool:
    """Whether the two units closest in the other words name only other members of a class of exclusive words."""
    topic = words - MODIFIERS - META
    # ties go to all units that share as much, so that the order of the units is irrelevant
    shared = sorted((len(topic & unit) for unit in units), reverse=True)
    least = max(shared[min(1, len(shared) - 1)], 1)
    said: Words = frozenset().union(*(unit for unit in units if len(topic & unit) >= least))
    return any(words & kind and not words & kind & said and said & kind for kind in CLASSES)


def pointable(statement: str, units: tuple[str, ...]) -> bool:
    """Whether the statement names a noun of the units."""
    return not nouns(units).isdisjoint(content_words(statement))


def covered(text: str, units: tuple[str, ...]) -> tuple[bool, ...]:
    """Per unit, whether one sentence of the caption holds enough of its content words."""
    said = [frozenset(content_words(sentence)) for sentence in sentences(text)]
    return tuple(
        bool(unit) and max((len(unit & words) for words in said), default=0) >= COVER * len(unit)
        for unit in _unit_words(units)
    )


def clarity(text: str) -> int:
    """The mark 1 to 5: flaws are counted, not averaged, so that a long text collects more of them."""
    flaws = 0
    earlier: list[Words] = []
    for sentence in sentences(text):
        parts = clauses(sentence) or (sentence,)
        flaws += RUN_ON_COST * (len(parts) > CLAUSES or len(sentence.split()) > WORDS)
        for part in parts:
            words = content_words(part)
            said = frozenset(words)
            stutter = any(words.count(word) > 2 for word in said)
            flaws += REPEAT_COST * (stutter or any(said <= other for other in earlier))
            earlier.append(said)
    return max(1, 5 - flaws)
