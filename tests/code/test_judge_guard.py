"""The guard: a judge that lies in its form says nothing; what it said well stays."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from balcap.judge.guard import Background, Guard, malformed
from balcap.records import Assertion, Caption, Judgement, Question, Reference, Sample

SAMPLE = Sample("a", b"", "train", "given", "unknown")
REFERENCE = Reference("a", "A cat sits. It is red.", ("A cat sits.", "It is red."), "given", "")
QUESTIONS = (Question("a", "What sits?", ("cat", "dog"), 0, 1.0, 0.5),)
GOOD = Judgement((Assertion("A cat sits.", True, True),), (True, False), 5, 4, 1, ((0, -1),))


class Says:
    """A judge that says the given judgements."""

    name, revision, fills = "says", "1", frozenset({"covered"})

    def __init__(self, *judged: Judgement) -> None:
        self.judged, self.failures = list(judged), {"refused": 2}

    async def judge_group(self, *_: Any) -> list[Judgement]:
        return self.judged


def judged(*said: Judgement) -> tuple[list[Judgement], Guard]:
    guard = Guard(Says(*said), deadline=5.0)
    captions = [Caption("A cat.")] * len(said)
    return asyncio.run(guard.judge_group(SAMPLE, REFERENCE, captions, QUESTIONS)), guard


def test_a_well_formed_judgement_passes_unchanged() -> None:
    found, guard = judged(GOOD, Judgement(), Judgement((), None, None, None, None, ((),)))
    assert found == [GOOD, Judgement(), Judgement((), None, None, None, None, ((),))]
    assert not guard.reasons and guard.why() == "refused: 2"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"covered": ()}, "covered"),
        ({"covered": (True, True, True)}, "covered"),
        ({"clarity": 0}, "clarity"),
        ({"fluency": 6}, "fluency"),
        ({"coherency": 2.5}, "coherency"),
        ({"answers": ()}, "answers"),
        ({"answers": ((2,),)}, "answers"),
        ({"answers": ((-2,),)}, "answers"),
    ],
)
def test_a_malformed_part_is_unknown_and_counted(change: dict[str, Any], part: str) -> None:
    (found, other), guard = judged(replace(GOOD, **change), GOOD)
    assert found == replace(GOOD, **{part: None}) and other == GOOD
    assert guard.reasons == {f"malformed {part}": 1}
    assert malformed(replace(GOOD, **change), REFERENCE, QUESTIONS) == [part]


def test_a_wait_ends_also_when_the_loop_is_blocked() -> None:
    async def block() -> None:
        time.sleep(1)

    with Background() as loop, pytest.raises(TimeoutError):
        loop.run(block(), 0.1)
