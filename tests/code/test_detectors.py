"""Detectors of wording: worked examples, false friends, what no text may break."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.evaluation.detectors import DETECTORS, HEDGES, SELF_PRAISE, hedging, repetition, self_praise, text_scores
from balcap.rewards.length import words
from balcap.scenes import COMMENTARY, draw_scene, noisy_caption, teacher_caption

PHOTOS = Path(__file__).parents[2] / "data/examples/photos/captions.jsonl"
VOCABULARY = ("the", "a", "red", "blue", "circle", "sits", "at", "seems", "to", "be", "of")
TEN = "One two three four five six seven eight nine ten."


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("A red circle sits here.", 0),
        ("A red red circle.", 1),
        ("A red, Red circle.", 1),
        ("no no no", 2),
        ("The background is dotted. The background is dotted.", 4),
        ("The background is dotted. It is red. The Background is dotted!", 4),
        ("the background is dotted tan the background is dotted tan", 5),
        ("The background is dotted tan the background is dotted grey", 0),  # four words in a row are no run
        ("The red one is left of the blue one and the red one is left of the tree.", 7),
        (f"{TEN} {TEN} {TEN}", 20),
        ("Yes. No. Yes.", 1),
        ("A cat.\nA dog.\nA cat.", 2),
    ],
)
def test_repetition_is_the_share_of_words_said_again(text: str, repeated: int) -> None:
    assert repetition(text) == pytest.approx(100.0 * repeated / words(text))


HEDGED = [
    ("The man appears to be asleep, perhaps.", 2),
    ("What looks like a boat may be a log.", 2),
    ("It seems\nto  be moving and might also suggest haste.", 2),
    ("It is unclear whether it could be a dog.", 2),
    ("It is most likely old, as if worn.", 2),
    ("One can imagine a mood that hints at autumn.", 2),
    ("A red circle appears at the top-left.", 0),  # a verb of the embedded world
    ("A boat sails in May behind a can; the mayor looks to the left.", 0),
    ("An unlikely tree.", 0),
]


@pytest.mark.parametrize(("text", "hedges"), HEDGED)
def test_hedges(text: str, hedges: int) -> None:
    assert hedging(text) == pytest.approx(100.0 * hedges / words(text))


PRAISED = [
    ("This is a complete and accurate description.", 1),
    ("This caption covers every object. Nothing is left out.", 2),
    ("All relevant details have been mentioned.", 1),
    ("Any reader could now picture the scene without seeing the image.", 2),
    ("It holds enough detail to recreate the scene and answers all questions.", 2),
    ("A comprehensive, detailed and precise visual summary of the picture.", 1),
    ("A detailed drawing of a full moon with all its craters.", 0),
    ("Nothing is on the table. A man reads a description of the exhibit.", 0),
    ("A model could be seen at every stand.", 0),
]
MORE = ["what looks like a dog", "it is hard to tell", "leaving nothing out"]


@pytest.mark.parametrize(("text", "claims"), PRAISED)
def test_self_praise(text: str, claims: int) -> None:
    assert self_praise(text) == pytest.approx(100.0 * claims / words(text))


def test_good_captions_are_nearly_free_of_all_three() -> None:
    photos = [json.loads(line)["caption"] for line in PHOTOS.read_text().splitlines()]
    assert len(photos) >= 20 and all(set(text_scores(text).values()) == {0.0} for text in photos)
    scenes = [draw_scene(7, i, 1, 3) for i in range(200)]
    teacher = [text_scores(teacher_caption(scene, i)) for i, scene in enumerate(scenes)]
    noisy = [text_scores(noisy_caption(scene, i)) for i, scene in enumerate(scenes)]
    means = {name: [sum(row[name] for row in rows) / 200 for rows in (teacher, noisy)] for name in DETECTORS}
    assert means["hedging"][0] == means["self_praise"][0] == 0.0 and means["repetition"][0] < 0.5
    assert means["repetition"][1] > 3.0 and means["hedging"][1] > 0.1 and means["self_praise"][1] > 0.1


def test_the_embedded_worlds_own_commentary() -> None:
    assert [text for text in COMMENTARY if self_praise(text)] == ["This is a complete description."]
    assert [text for text in COMMENTARY if hedging(text)] == ["Everything seems carefully arranged."]


@given(st.text())
def test_any_text_has_finite_rates(text: str) -> None:
    found = text_scores(text)
    assert list(found) == list(DETECTORS) == ["repetition", "hedging", "self_praise"]
    assert 0.0 <= found["repetition"] <= 100.0 and all(value >= 0.0 for value in found.values())
    if not text.strip():
        assert set(found.values()) == {0.0}


@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=40))
def test_saying_everything_twice_repeats_at_least_half(said: list[str]) -> None:
    text = " ".join(said) + "."
    assert repetition(f"{text} {text}") >= 50.0
    assert hedging(f"{text} {text}") == pytest.approx(hedging(text))  # a rate, not a count


@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=40))
def test_case_and_line_breaks_are_no_difference_within_a_sentence(said: list[str]) -> None:
    assert hedging(" ".join(said)) == hedging("  ".join(said).upper())
    assert repetition(" ".join(said)) == repetition("\t".join(said).title())


@pytest.mark.parametrize("piece", ["complete ", "complete, ", "may ", "any reader can now ", "a ", "all the details "])
def test_no_text_takes_long(piece: str) -> None:
    start = time.process_time()
    text_scores(piece * 20_000)
    assert time.process_time() - start < 4.0


def test_every_expression_has_an_example() -> None:
    said = " ".join([*MORE, *(text for text, count in (*HEDGED, *PRAISED) if count)]).lower()
    for expression in (*HEDGES, *SELF_PRAISE):
        assert re.search(rf"\b(?:{expression})\b", said), expression
