"""What an OpenAI-compatible server's reply means: an answer, or the reason why it is none.

    outcome = completion(body)        # .answer with text and tokens; .reason is "" or "cut off", "refusal", ...

A reply that is no answer may have cost tokens all the same: they are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

LONGEST_ASKED = 60.0
"""Seconds that a server may make a call wait by Retry-After."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, as it said it, and what that cost; a server that does not count tells 0."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class CallFailed(Exception):
    """A call without an answer; ``reason`` is short and countable: "timeout", "http 429", "refused 400", "cut off"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


NOTHING = Answer("", 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one attempt."""

    reason: str = ""
    """Why there is no answer; empty when there is one."""
    answer: Answer = NOTHING
    """Without a text where there is none, but with the tokens that it cost."""
    again: bool = False
    """Another attempt may end otherwise."""
    after: float = 0.0
    """Seconds that the server asked to wait before it; 0 if it did not."""
    sick: bool = False
    """The endpoint itself is at fault, not the call: another one may do better."""


def completion(body: bytes) -> Outcome:
    """The body of a reply with status 200."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return Outcome("not a completion")
    if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
        return Outcome("not a completion")
    reason, text = _first(reply["choices"])
    return Outcome(reason, Answer(text, *_tokens(reply.get("usage"))))


def _first(choices: list[Any]) -> tuple[str, str]:
    """(reason, text) of the first choice; one of the two is empty."""
    if not choices:
        return "empty", ""
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        return "not a completion", ""
    ended, text = choices[0].get("finish_reason"), message.get("content")
    if message.get("refusal") or ended == "content_filter":
        return "refusal", ""
    if ended == "length":
        return "cut off", ""
    if text is not None and not _is_text(text):
        return "not a completion", ""
    return ("", text) if text and text.strip() else ("empty", "")


def _is_text(value: object) -> bool:
    """A string that can be stored: JSON may spell halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _tokens(usage: Any) -> tuple[int, int, int]:
    """Prompt, completion, cached."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), _count(cached)


def _count(value: object) -> int:
    return value if type(value) is int and value > 0 else 0


def retry_after(header: str | None) -> float:
    """Seconds of a Retry-After header, a number or a date, at most a minute; 0 for none or one out of form."""
    try:
        asked = float(header or 0)
    except ValueError:
        asked = _until(header or "")
    return min(asked, LONGEST_ASKED) if asked > 0 else 0.0


def _until(date: str) -> float:
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
