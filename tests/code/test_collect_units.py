"""Captions split into statements: nothing lost, nothing invented, cut only where both sides stand alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.collect.units import split_units

JOINERS = {"and", "but", "while", "whereas", "or", "so", "yet"}


@pytest.mark.parametrize(
    ("caption", "units"),
    [
        ("A cat sits on a mat. It looks left.", ["A cat sits on a mat.", "It looks left."]),
        ("a cat on a mat", ["A cat on a mat."]),
        ("", []),
        (" ... ", []),
        (
            "The body is silvery, and its fins have violet edges.",
            ["The body is silvery.", "Its fins have violet edges."],
        ),
        ("The sky is grey; a gull flies past.", ["The sky is grey.", "A gull flies past."]),
        # one side could not stand alone
        ("A fish hovers, and throws dark shadows.", ["A fish hovers, and throws dark shadows."]),
        ("It shows a cup, a plate, and a fork.", ["It shows a cup, a plate, and a fork."]),
        ("It shows a man, and a dog that sits.", ["It shows a man, and a dog that sits."]),
        ("While it rains, and nobody is out, a dog has fun.", ["While it rains, and nobody is out, a dog has fun."]),
        # full stops that end no sentence
        ("Dr. Smith holds a 3.5 cm ruler.", ["Dr. Smith holds a 3.5 cm ruler."]),
        ("A plate by J. Wood, e.g. Spode, is blue.", ["A plate by J. Wood, e.g. Spode, is blue."]),
        ('A sign says "Stop!" in red. It is round.', ['A sign says "Stop!" in red.', "It is round."]),
        ('It reads "No. 5." A car waits.', ['It reads "No. 5."', "A car waits."]),
        ("A heading\n\nA second paragraph", ["A heading.", "A second paragraph."]),
        ("It is red. It is red.", ["It is red."]),
    ],
)
def test_examples(caption: str, units: list[str]) -> None:
    assert list(split_units(caption)) == units


def words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"\w+", text)]


CLAUSES = [
    "A red car",
    "is parked",
    "the tail",
    "its roof",
    "has dents",
    "Mr. Hill",
    "walks by",
    "3.5 m",
    "that is big",
]
JOINTS = [", and ", "; ", ". ", ", while ", "! ", " ", ", but ", "… ", '"', "\n\n"]
PIECES = st.sampled_from(CLAUSES) | st.sampled_from(JOINTS)


@given(st.lists(PIECES, max_size=30).map(" ".join))
def test_only_joining_words_disappear_and_the_order_stays(caption: str) -> None:
    units = split_units(caption)
    assert len(set(units)) == len(units)
    assert all(unit[0] == unit[0].upper() and words(unit) for unit in units)
    kept, source = words(" ".join(units)), iter(words(caption))
    assert all(word in source for word in kept), "the units are a subsequence of the caption"
    assert set(words(caption)) - set(kept) <= JOINERS, "only a word that joins, or a repeated statement, is left out"


@given(st.text(max_size=300))
def test_any_text_is_split_the_same_way_twice(text: str) -> None:
    assert split_units(text) == split_units(text)
    assert all(unit.strip() for unit in split_units(text))
