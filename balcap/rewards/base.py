"""What every reward shares: its type, the parts of a judgement that it needs, captions that are worth nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from balcap.records import Caption, Judgement, Question, Reference

UNKNOWN = float("nan")


class Reward(Protocol):
    """A pure function in [0, 1], or NaN when its evidence is missing; ``needs`` names fields of ``Judgement``."""

    needs: frozenset[str]

    def __call__(
        self, judgement: Judgement, caption: Caption, reference: Reference, questions: tuple[Question, ...] = ()
    ) -> float: ...


F = TypeVar("F", bound=Callable[..., float])


def needing(*parts: str) -> Callable[[F], Reward]:
    """Declare the parts of a judgement that a reward reads."""

    def declare(function: F) -> Reward:
        function.needs = frozenset(parts)  # type: ignore[attr-defined]
        return cast(Reward, function)

    return declare


def worthless(caption: Caption) -> bool:
    """An empty or truncated caption: a known 0.0 in every reward, whatever the judge says (assumptions 9 and 21)."""
    return caption.truncated or not caption.text.strip()
