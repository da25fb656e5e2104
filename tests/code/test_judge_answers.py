"""Raw answers into parts: strict where a number depends on it, and never a number for what is out of form."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.judge.answers import MOST_ASSERTIONS, parse, schema
from balcap.llm.forms import AnswerError
from balcap.records import Assertion

GOOD: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "precision": (
        {"assertions": [{"t": "A cat sits.", "v": 1, "p": 0}, {"t": "It is red.", "v": 0, "p": 1}]},
        {},
        (Assertion("A cat sits.", True, False), Assertion("It is red.", False, True)),
    ),
    "recall": ({"covered": [1, 3]}, {"units": 3}, (True, False, True)),
    "linguistic": ({"clarity": 5, "fluency": 1, "coherency": 3}, {}, (5, 1, 3)),
    "answer": ({"answer": "B"}, {"options": "ABC"}, 1),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("form", ["{}", "Here it is:\n```json\n{}\n```", "{} I hope that helps. {{"])
def test_an_answer_in_form_is_read_whatever_stands_around_it(kind: str, form: str) -> None:
    said, bounds, part = GOOD[kind]
    assert parse(kind, form.replace("{}", json.dumps(said)).replace("{{", "{"), **bounds) == part


def test_control_characters_inside_a_statement_are_letters_like_any_other() -> None:
    said = '{"assertions":[{"t":"A cat\n\x1esits.","v":1,"p":1}]}'  # xgrammar lets a model write them
    assert parse("precision", said) == (Assertion("A cat\n\x1esits.", True, True),)


def test_a_full_list_may_lack_what_came_behind_it() -> None:
    one = {"t": "A circle is red.", "v": 1, "p": 1}
    assert len(parse("precision", json.dumps({"assertions": [one] * (MOST_ASSERTIONS - 1)}))) == MOST_ASSERTIONS - 1
    with pytest.raises(AnswerError, match="too many statements"):
        parse("precision", json.dumps({"assertions": [one] * MOST_ASSERTIONS}))
    assert schema("precision")["properties"]["assertions"]["maxItems"] == MOST_ASSERTIONS


def test_empty_lists_are_known_to_be_empty() -> None:
    assert parse("precision", '{"assertions":[]}') == ()
    assert parse("recall", '{"covered":[]}', units=2) == (False, False)


BAD = [
    ("precision", '{"assertions":[{"t":"A cat sits.","v":1', "no JSON"),
    ("precision", "I cannot help with that.", "no JSON"),
    ("precision", "{}", "no assertions"),
    ("precision", '{"assertions":"none"}', "no assertions"),
    ("precision", '{"assertions":["A cat sits."]}', "no statement"),
    ("precision", '{"assertions":[{"t":"A cat","v":1}]}', "no verdict"),
    ("precision", '{"assertions":[{"t":"A cat","v":2,"p":1}]}', "no verdict"),
    ("precision", '{"assertions":[{"t":"A cat","v":"yes","p":1}]}', "no verdict"),
    ("recall", '{"covered":[1,4]}', "unit that does not exist"),
    ("recall", '{"covered":[0]}', "unit that does not exist"),
    ("recall", '{"covered":["1"]}', "unit that does not exist"),
    ("recall", '{"covered":[true]}', "unit that does not exist"),
    ("linguistic", '{"clarity":NaN,"fluency":3,"coherency":3}', "no JSON"),
    ("linguistic", '{"clarity":3,"fluency":3}', "no coherency"),
    ("linguistic", '{"clarity":6,"fluency":3,"coherency":3}', "no clarity"),
    ("linguistic", '{"clarity":3.5,"fluency":3,"coherency":3}', "no clarity"),
    ("answer", '{"answer":"D"}', "no option"),
    ("answer", '{"answer":"AB"}', "no option"),
    ("answer", '{"answer":""}', "no option"),
    ("answer", '{"answer":1}', "no option"),
    ("answer", "[" * 100_000 + '{"answer":' * 20_000, "no JSON"),
]


@pytest.mark.parametrize(("kind", "text", "reason"), BAD)
def test_an_answer_out_of_form_is_no_part(kind: str, text: str, reason: str) -> None:
    with pytest.raises(AnswerError, match=reason):
        parse(kind, text, **({"units": 3} if kind == "recall" else {"options": "ABC"} if kind == "answer" else {}))


@given(st.sampled_from(sorted(GOOD)), st.text())
def test_no_text_does_anything_else(kind: str, text: str) -> None:
    with suppress(AnswerError):
        parse(kind, text, **GOOD[kind][1])


@pytest.mark.parametrize("kind", GOOD)
def test_the_schema_asks_for_what_is_read(kind: str) -> None:
    said, bounds, _ = GOOD[kind]
    form = schema(kind, **bounds)
    assert set(form["required"]) == set(form["properties"]) == set(said) and form["additionalProperties"] is False
    json.dumps(form)
