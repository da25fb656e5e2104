"""Texts as they may stand in data: read from a row or from an answer, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def text_in(row: Mapping[str, Any], key: str) -> str:
    """A text without surrounding white space; raises ``ValueError`` saying what is wrong with it."""
    return clean(row.get(key), key)


def clean(value: Any, what: str) -> str:
    """As :func:`text_in`, for a value that messages call ``what``."""
    if value is None or value == "":
        raise ValueError(f"no {what}")
    if not isinstance(value, str):
        raise ValueError(f"{what} is not a text but {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"empty {what}")
    if any("\ud800" <= ch <= "\udfff" or (ch < " " and ch not in "\n\r\t") for ch in value):
        raise ValueError(f"{what} holds a control character or half a character: {value[:40]!a}")
    return value.strip()


def texts_in(row: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts, in CSV written as JSON; ``[]`` if absent. Raises ``ValueError``."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f'{key} is not a JSON list such as ["a", "b"]') from None
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise ValueError(f"{key} is not a list of texts but {type(value).__name__}")
    return [clean(item, f"one of the {key}") for item in value]
