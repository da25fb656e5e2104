"""The few types that everything shares (frozen, no behaviour; names are the field's).

Numbers: 0.0 is "known, and worst"; NaN or ``None`` is "unknown". They are never exchanged.
``()`` is "known to be empty".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

MARKS = ("clarity", "fluency", "coherency")
"""The three linguistic marks, integers 1 to 5 (paper, section on rewards)."""

PARTS = ("assertions", "covered", "clarity", "fluency", "coherency", "answers")
"""The parts of a judgement."""
CANNOT_BE_ANSWERED = -1
"""The answer to a question about which the caption says nothing."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture as stored by ``prepare``: ``image`` holds the encoded bytes of the shard, never re-encoded.

    ``image_id`` is the sha256 of width, height and the oriented RGB bytes before resizing (``balcap.hashing``).
    ``meta`` is source-specific; a picture of the embedded world carries its facts under ``meta["scene"]``.
    """

    image_id: str
    image: bytes
    split: str
    source: str
    license: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference caption and its atomic statements (units), split once and stored."""

    image_id: str
    caption: str
    units: tuple[str, ...]
    writer: str
    prompt_sha256: str


@dataclass(frozen=True, slots=True)
class Question:
    """A multiple-choice question; ``answer`` is the index of the right option, accuracies in [0, 1] or NaN."""

    image_id: str
    question: str
    options: tuple[str, ...]
    answer: int
    accuracy_with_image: float
    accuracy_without_image: float


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored picture with what is known of it."""

    sample: Sample
    reference: Reference
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Caption:
    """A sampled caption; ``truncated`` when generation ended without the end token."""

    text: str
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Assertion:
    """One atomic statement of a caption with the judge's two verdicts (paper, precision with pointability)."""

    text: str
    verified: bool
    pointable: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one caption. Each part is a value, or ``None`` = unknown; ``()`` = known to be empty.

    ``covered`` has one bool per unit of the reference; marks are integers 1 to 5; ``answers`` has, per question, one
    option index (or ``CANNOT_BE_ANSWERED``) per round.
    """

    assertions: tuple[Assertion, ...] | None = None
    covered: tuple[bool, ...] | None = None
    clarity: int | None = None
    fluency: int | None = None
    coherency: int | None = None
    answers: tuple[tuple[int, ...], ...] | None = None


@runtime_checkable
class Judge(Protocol):
    """The seam between whoever wants captions judged and whatever judges them.

    ``fills`` names the fields of :class:`Judgement` that this judge can fill at all. ``judge_group`` takes one image
    with all captions sampled for it and returns one judgement per caption, in order; it never raises: what it cannot
    know is ``None``, with the reason counted in ``failures``. ``account`` is what judging has cost so far, as metrics.
    ``ready`` tells why it cannot judge at all, if so. ``close`` lets go of connections and files; it is awaited once,
    in the event loop in which the judge worked.
    """

    name: str
    revision: str
    fills: frozenset[str]
    failures: dict[str, int]

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]: ...

    def account(self) -> dict[str, float]: ...

    async def ready(self) -> str: ...

    async def close(self) -> None: ...
