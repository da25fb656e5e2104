"""From text to clauses: sentences end at the full stop, clauses at "and" and wherever a key word comes again.

    split_run_on("the background is dotted the background is tan".split())
    [["the", "background", "is", "dotted"], ["the", "background", "is", "tan"]]

The last rule keeps a text without stops or "and" from hiding repeats and contradictions in one clause: a clause speaks
of one thing (a shape, the background, the number of shapes; a relation of two) and gives each attribute once.
"""

from __future__ import annotations

import re

from balcap.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, PLACES, SHAPES, SIZES, TEXTURES

KIND: dict[str, str] = {
    **dict.fromkeys(SHAPES, "shape"),
    **dict.fromkeys((*COLOURS, *BACKGROUNDS), "colour"),
    **dict.fromkeys(SIZES, "size"),
    **dict.fromkeys(TEXTURES, "texture"),
    **dict.fromkeys(PLACES, "place"),
    **dict.fromkeys(NUMBERS, "number"),
    **dict.fromkeys(("left", "right", "above", "below"), "relation"),
    **dict.fromkeys(("shape", "shapes"), "count"),
    "background": "background",
}
"""What a word can tell the parser; all other words tell it nothing."""

HEADS = {"shape", "background", "count"}
ADJECTIVES = {"colour", "size", "texture", "number"}
NOUN_PHRASE = HEADS | ADJECTIVES
LEADING = {"a", "an", "the", "at", "there", "is", "are", "picture", "shows"}
"""Words that open a clause: they go with what follows."""
TOKEN = re.compile(r"[\w'-]+|[^\w\s]")


def sentences(text: str) -> tuple[list[list[str]], bool]:
    """Lower-case words (and stray marks) of each sentence, and whether the text ends with a full stop."""
    found: list[list[str]] = [[]]
    for token in TOKEN.findall(text.lower()):
        if token == ".":
            found.append([])
        else:
            found[-1].append(token)
    stopped = not found[-1]
    return (found[:-1], len(found) > 1) if stopped else (found, False)


def clauses(words: list[str]) -> tuple[list[list[str]], int]:
    """Clauses of a sentence, and the faults between them.

    A fault is a clause that begins without "and", an "and" without a clause, and each doubled word, which is read once.
    """
    parts: list[list[str]] = [[]]
    doubled = 0
    for word in words:
        if word == "and":
            parts.append([])
        elif parts[-1] and parts[-1][-1] == word:
            doubled += 1
        else:
            parts[-1].append(word)
    split = [split_run_on(part) for part in parts if part]
    joints = sum(len(part) - 1 for part in split)
    return [clause for part in split for clause in part], joints + doubled + parts.count([])


def split_run_on(words: list[str]) -> list[list[str]]:
    """Cut before each key word whose slot in the clause is taken, and before "at the top-left there ...".

    The words that lead up to the key word go with it.
    """
    parts, start, slots = [], 0, _Slots()
    for i, word in enumerate(words):
        kind = KIND.get(word)
        if kind is None:
            continue
        if not slots.free(kind) or (kind == "place" and slots.any() and _opens(words[i + 1 : i + 4])):
            cut = _lead(words, i, kind)
            parts.append(words[start:cut])
            start, slots = cut, _Slots()
            for earlier in words[cut:i]:
                slots.fill(KIND.get(earlier, ""))
        slots.fill(kind)
    return [*parts, words[start:]]


class _Slots:
    """Which slots of a clause are taken; a relation opens a second set behind it."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.related = False

    def any(self) -> bool:
        return self.related or bool(self.taken)

    def free(self, kind: str) -> bool:
        if kind == "relation":
            return not self.related
        if kind == "background" and self.related:
            return False
        return ("head" if kind in HEADS else kind) not in self.taken

    def fill(self, kind: str) -> None:
        if kind == "relation":
            self.related = True
            self.taken.clear()
        elif kind:
            self.taken.add("head" if kind in HEADS else kind)


def _opens(following: list[str]) -> bool:
    """Whether a place begins a clause: "at the top-left there is a ...", but not "... there are two shapes"."""
    return following[:1] == ["there"] and all(KIND.get(word) != "number" for word in following)


def _lead(words: list[str], at: int, kind: str) -> int:
    """Where the clause of the key word at ``at`` begins: before other adjectives, article and opening words."""
    while kind in NOUN_PHRASE and KIND.get(words[at - 1]) in ADJECTIVES - {kind}:
        at -= 1
    while words[at - 1] in LEADING:
        at -= 1
    return at
