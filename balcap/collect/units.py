"""A caption's atomic statements (units), split once when nobody gave them: plain English, deterministic, no model.

    split_units("A cat sits on a mat, and its tail is striped. It looks left.")
    -> ("A cat sits on a mat.", "Its tail is striped.", "It looks left.")

Sentences end at . ! ? or … before something that opens a sentence, not after an abbreviation, an initial or inside a
number. A sentence is cut further at a semicolon, and at a comma with and, but, while, whereas, or, so or yet, but only
where both sides can stand alone: each opens with a subject, and the right one holds a verb of its own. No other word
than these is lost, and none is invented. What it cannot do: undo pronouns, split coordinated predicates ("sits and
looks") or relative clauses; of 105 hand-split captions it finds 7.2 units each where people wrote 13.4. Give `units` in
the captions file, or use a language model, where that matters. Paper: recall is coverage of a reference's units.
"""

from __future__ import annotations

import re

VERSION = "units 1"
"""Part of what identifies a file's references; raise it when the splits change."""

ABBREVIATIONS = re.compile(
    r"(?:mr|mrs|ms|dr|prof|st|mt|ft|no|vs|approx|ca|cf|fig|jr|sr|inc|ltd|e\.g|i\.e|a\.m|p\.m)", re.IGNORECASE
)
"""Words after which a full stop ends no sentence, without that full stop."""

END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s+["'“‘(\[]*[^\sa-z])""")
"""A stop before white space and anything that opens a sentence (not a lower-case letter)."""

CUT = re.compile(r";\s+(?:and\s+|but\s+)?|,\s+(?:and|but|while|whereas|or|so|yet)\s+")

VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|does|do|seems?|appears?|sits?|lies|lie|hangs?|holds?|wears?|rises|rise|leans?|"
    r"fills?|grows?|stretch(?:es)?|extends?|reach(?:es)?|surrounds?|overlooks?|glows?|walks?|carr(?:y|ies)|contains?|"
    r"includes?|swims?|pokes?|peeks?|emerges?|remains?|hovers?|flies|occup(?:y|ies)|dominates?|reads|"
    # plurals of nouns too: verbs only before what follows a verb
    r"(?:stands?|shows?|faces?|points?|covers?|lines?|marks?|runs?|rests?|curves?|crosses|leads?|frames?|turns?)"
    r"(?=\s+(?:an?|the|its|his|her|their|up|down|left|right|out|to|towards?|above|below|behind|beside|over|under|along|"
    r"across|through|against|in|on|at)\b))\b",
    re.IGNORECASE,
)
RELATIVE = re.compile(r"\b(?:that|who|which|where)\s+\S+", re.IGNORECASE)
"""A relative pronoun and its verb, which makes no statement of its own."""

NO_SUBJECT = re.compile(
    r"(?:which|who|whose|where|when|as|if|because|while|whereas|although|though|since|after|before|until|then|also|"
    r"\w+ing|\w{2,}ed)\b",
    re.IGNORECASE,
)


def split_units(caption: str) -> tuple[str, ...]:
    """Atomic statements in the caption's order, each with a capital and a full stop; ``()`` for a text of no words."""
    clauses = [clause for sentence in sentences(caption) for clause in _clauses(sentence)]
    return tuple(dict.fromkeys(unit for clause in clauses if (unit := _finish(clause))))


def sentences(text: str) -> list[str]:
    """Sentences of a text, white space collapsed; a line break after a blank line ends one too."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        flat, start = " ".join(paragraph.split()), 0
        for end in END.finditer(flat):
            if not _abbreviated(flat[start : end.start()], end[0]):
                found.append(flat[start : end.end()].strip())
                start = end.end()
        found.append(flat[start:].strip())
    return [sentence for sentence in found if sentence]


def _abbreviated(before: str, stop: str) -> bool:
    """Whether the full stop after ``before`` belongs to an abbreviation or an initial (``J. Smith``)."""
    word = before.rsplit(maxsplit=1)[-1].lstrip("(\"'“‘[") if before.strip() else ""
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word not in ("A", "I")
    return stop == "." and (initial or ABBREVIATIONS.fullmatch(word) is not None)


def _clauses(sentence: str) -> list[str]:
    """A sentence cut where both sides can stand alone."""
    found, start = [], 0
    for cut in CUT.finditer(sentence):
        left, right = sentence[start : cut.start()], sentence[cut.end() :]
        following = CUT.split(right, maxsplit=1)[0]
        if _opens(left) and len(left.split()) > 2 and _opens(following) and VERB.search(RELATIVE.sub("", following)):
            found.append(left)
            start = cut.end()
    return [*found, sentence[start:]]


def _opens(clause: str) -> bool:
    """Whether a clause opens as a statement of its own: neither with a verb nor as the lesser half of another."""
    return not (NO_SUBJECT.match(clause.strip()) or VERB.match(clause.strip()))


def _finish(clause: str) -> str:
    text = clause.strip(" ,;:-–—")
    if not any(ch.isalnum() for ch in text):
        return ""
    text = text[0].upper() + text[1:]
    return text if re.search(r"""[.!?…]["'”’)\]]*$""", text) else text + "."
