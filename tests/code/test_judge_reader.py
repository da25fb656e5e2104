"""Questions before a language model that sees the picture or does not: what they are worth, and what failures do."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import oracle_world as world
import pytest
from evaluation_world import picture

from balcap.judge.options import lettered, turned
from balcap.judge.prompts import load_prompt
from balcap.judge.reader import PROMPTS, Reader, ReaderFailed, measure_all
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params.collect import QuestionReader, ReaderPrompts
from balcap.records import CANNOT_BE_ANSWERED, Question
from balcap.serve.oracle import MODEL

PICTURES = [picture(i) for i in range(6)]
QUESTIONS = [question for known in PICTURES for question in known.questions]
WORDS = {how: load_prompt(name) for how, name in PROMPTS.items()}


class Guesses(world.Counted):
    """Sees nothing and chooses the first option."""

    def say(self, body: dict[str, Any]) -> str:
        said = super().say(body)
        return said if isinstance(body["messages"][1]["content"], list) else '{"answer":"A"}'


def oracle(fail: float = 0.0) -> world.Counted:
    return world.Counted([known.sample for known in PICTURES], fail)


def reader(url: str, folder: Path, failures: float = 0.0) -> Reader:
    params = QuestionReader(
        model=MODEL,
        model_revision="truth",
        prompts=ReaderPrompts(**{how: prompt.sha256 for how, prompt in WORDS.items()}),
        max_tokens=20,
        max_failure_rate=failures,
    )
    return Reader(params, WORDS, Client(MODEL, world.serving(url)), AnswerCache(folder / "answers.sqlite"))


def measured(judge: world.Counted, folder: Path, failures: float = 0.0) -> list[Question]:
    with world.served(judge) as url:
        return measure_all(reader(url, folder, failures), [known.sample for known in PICTURES], QUESTIONS)


def test_who_sees_the_picture_answers_and_who_does_not_says_so(tmp_path: Path) -> None:
    found = measured(oracle(), tmp_path)
    assert [(q.image_id, q.question) for q in found] == [(q.image_id, q.question) for q in QUESTIONS]
    assert {q.accuracy_with_image for q in found} == {1.0}
    assert {q.accuracy_without_image for q in found} == {0.0}


def test_always_the_first_option_is_right_once_per_round_of_places(tmp_path: Path) -> None:
    guesses = Guesses([known.sample for known in PICTURES])
    found = measured(guesses, tmp_path)
    assert [q.accuracy_without_image for q in found] == [pytest.approx(1 / len(q.options)) for q in QUESTIONS]
    rounds = [(q, turned(q, 0, n)) for q in QUESTIONS for n in range(len(q.options))]
    needed = len(rounds) + len(
        {json.dumps(lettered(q, order)) for q, order in rounds}
    )  # two pictures, one blind question
    assert guesses.calls["answer"] == needed
    assert measured(guesses, tmp_path) == found and guesses.calls["answer"] == needed


def test_a_failed_round_leaves_the_accuracy_unknown_and_the_limit_stops_it(tmp_path: Path) -> None:
    found = measured(oracle(0.05), tmp_path, failures=1.0)
    values = [v for q in found for v in (q.accuracy_with_image, q.accuracy_without_image)]
    unknown = sum(map(math.isnan, values))
    assert 0 < unknown < len(values) and {v for v in values if not math.isnan(v)} == {0.0, 1.0}
    with pytest.raises(ReaderFailed, match=rf"{unknown} of {len(values)} accuracies.*answer: .*max_failure_rate"):
        measured(oracle(0.05), tmp_path / "again", failures=0.01)


def test_no_option_stands_twice_in_one_place() -> None:
    question = Question("i", "Which?", ("a", "b", "c", "d"), 2, math.nan, math.nan)
    orders = [turned(question, seed=3, turn=n) for n in range(4)]
    assert all(order[-1] == CANNOT_BE_ANSWERED for order in orders)
    assert all(Counter(order[place] for order in orders) == {0: 1, 1: 1, 2: 1, 3: 1} for place in range(4))
    shown = lettered(question, orders[0], "no idea")["options"]
    assert list(shown) == list("ABCDE") and shown["E"] == "no idea" and sorted(shown.values())[:4] == list("abcd")
