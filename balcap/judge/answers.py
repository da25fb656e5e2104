"""What a language model may answer, as JSON schemas, and its raw text read into parts of a judgement. Pure functions.

    schema("recall", units=7)                        bound into the decoding by the server
    parse("recall", '{"covered":[1,4]}', units=7)    (True, False, False, True, False, False, False)
    form("recall", units=7)                          both together

Reading is strict where a number depends on it: a part that is missing, of another type or out of range is an
:class:`AnswerError`, which leaves the part unknown. Text around the JSON object is passed over.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from balcap.llm.forms import AnswerError, Form, array_of, first_object, list_in, object_of
from balcap.records import MARKS, Assertion

MOST_ASSERTIONS = 100
LONGEST_ASSERTION = 200
"""Characters; both bound what a model that loses itself can write. A full list may lack what came behind it."""


@lru_cache(1024)
def form(kind: str, *, units: int = 0, options: str = "", order: tuple[int, ...] = ()) -> Form:
    """What an answer of this kind may be, and how it is read; ``order`` maps a letter's place to the option's index."""

    def read(text: str) -> Any:
        part = parse(kind, text, units=units, options=options)
        return order[part] if order else part

    return Form(schema(kind, units=units, options=options), read)


def schema(kind: str, *, units: int = 0, options: str = "") -> dict[str, Any]:
    """The JSON schema of an answer: ``units`` facts to cover, ``options`` the letters to choose from."""
    bit = {"type": "integer", "enum": [0, 1]}
    if kind == "precision":
        text = {"type": "string", "maxLength": LONGEST_ASSERTION}
        return object_of(assertions=array_of(object_of(t=text, v=bit, p=bit), MOST_ASSERTIONS))
    if kind == "recall":
        return object_of(covered=array_of({"type": "integer", "minimum": 1, "maximum": units}, units))
    if kind == "linguistic":
        return object_of(**{mark: {"type": "integer", "enum": [1, 2, 3, 4, 5]} for mark in MARKS})
    return object_of(answer={"type": "string", "enum": list(options)})


def parse(kind: str, text: str, *, units: int = 0, options: str = "") -> Any:
    """The part that ``text`` says: assertions, covered, the three marks, or the index of an option."""
    said = first_object(text)
    if kind == "precision":
        return tuple(_assertion(entry) for entry in _short(list_in(said, "assertions")))
    if kind == "recall":
        return _covered(list_in(said, "covered"), units)
    if kind == "linguistic":
        return tuple(_mark(said, mark) for mark in MARKS)
    return _option(said, options)


def _short(found: list[Any]) -> list[Any]:
    """A list that the schema did not cut: behind the last one allowed, statements would go unjudged."""
    if len(found) >= MOST_ASSERTIONS:
        raise AnswerError("too many statements")
    return found


def _assertion(entry: Any) -> Assertion:
    if not isinstance(entry, dict) or not isinstance(entry.get("t"), str):
        raise AnswerError("no statement")
    if any(entry.get(mark) not in (0, 1) for mark in ("v", "p")):
        raise AnswerError("no verdict")
    return Assertion(entry["t"], bool(entry["v"]), bool(entry["p"]))


def _covered(numbers: list[Any], units: int) -> tuple[bool, ...]:
    if not all(type(n) is int and 1 <= n <= units for n in numbers):
        raise AnswerError("unit that does not exist")
    return tuple(n in numbers for n in range(1, units + 1))


def _mark(said: dict[str, Any], mark: str) -> int:
    value = said.get(mark)
    if type(value) is not int or not 1 <= value <= 5:
        raise AnswerError(f"no {mark}")
    return value


def _option(said: dict[str, Any], options: str) -> int:
    letter = said.get("answer")
    if not isinstance(letter, str) or len(letter) != 1 or letter not in options:
        raise AnswerError("no option")
    return options.index(letter)
