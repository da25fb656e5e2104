"""The form of an answer: the JSON schema that binds the model, and how its text is read. Pure functions.

    marks = Form(object_of(clarity=one_of(1, 2, 3)), read)
    read(text)                       what it says, or AnswerError, which leaves it unknown

Text around a JSON object is passed over; what a number depends on is read strictly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn


class AnswerError(ValueError):
    """An answer out of form; the message is short, for it is counted."""


@dataclass(frozen=True)
class Form:
    """One form; equal schemas are the same question to the model."""

    schema: dict[str, Any] | None
    """Bound into the decoding by the server; None leaves it free."""
    read: Callable[[str], Any]
    """Raises :class:`AnswerError`."""

    @cached_property
    def text(self) -> str:
        """The schema as JSON."""
        return json.dumps(self.schema)


def object_of(**properties: Any) -> dict[str, Any]:
    """Schema of an object with exactly these properties."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def array_of(items: dict[str, Any], most: int) -> dict[str, Any]:
    """Schema of a list of at most ``most`` items."""
    return {"type": "array", "items": items, "maxItems": most}


def first_object(text: str) -> dict[str, Any]:
    """The first JSON object of a text; raises :class:`AnswerError`."""
    try:
        found, _ = _DECODER.raw_decode(text, text.index("{"))
    except (ValueError, RecursionError):
        raise AnswerError("no JSON") from None
    assert isinstance(found, dict)
    return found


def list_in(said: dict[str, Any], name: str) -> list[Any]:
    """The list under ``name``; raises :class:`AnswerError`."""
    if not isinstance(said.get(name), list):
        raise AnswerError(f"no {name}")
    found: list[Any] = said[name]
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


# Not strict about line breaks and the like inside a string: servers that bind answers to a schema let them through.
_DECODER = json.JSONDecoder(parse_constant=_no_number, strict=False)
