"""The guard: a judge that lies in its form says nothing; what it said well stays."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from dataclasses import replace
from typing import Any

import pytest

from balcap.judge.guard import Guard, malformed
from balcap.llm.background import Background
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
    found, guard = judged(GOOD, Judgement(), Judgement((), None, None, None, None, ((-1,),)))
    assert found == [GOOD, Judgement(), Judgement((), None, None, None, None, ((-1,),))]
    assert not guard.reasons and guard.why() == "refused: 2"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"covered": ()}, "covered"),
        ({"covered": (True, True, True)}, "covered"),
        ({"covered": (2, 3)}, "covered"),
        ({"covered": (None, True)}, "covered"),
        ({"assertions": ("A cat sits.",)}, "assertions"),
        ({"assertions": (Assertion("A cat sits.", None, True),)}, "assertions"),
        ({"clarity": 0}, "clarity"),
        ({"fluency": 6}, "fluency"),
        ({"coherency": 2.5}, "coherency"),
        ({"answers": ()}, "answers"),
        ({"answers": ((),)}, "answers"),
        ({"answers": ((0.5,),)}, "answers"),
        ({"answers": ((2,),)}, "answers"),
        ({"answers": ((-2,),)}, "answers"),
    ],
)
def test_a_malformed_part_is_unknown_and_counted(change: dict[str, Any], part: str) -> None:
    (found, other), guard = judged(replace(GOOD, **change), GOOD)
    assert found == replace(GOOD, **{part: None}) and other == GOOD
    assert guard.reasons == {f"malformed {part}": 1}
    assert malformed(replace(GOOD, **change), REFERENCE, QUESTIONS) == [part]


class Clings(Says):
    """Hangs for one caption, and does not let go when it is cancelled."""

    async def judge_group(self, sample: Sample, reference: Reference, captions: list[Caption], *_: Any) -> Any:
        if captions[0].text == "hang":
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(3)
        if captions[0].text == "cancel":
            raise asyncio.CancelledError
        return self.judged


@pytest.mark.parametrize(("text", "reason"), [("hang", "deadline"), ("cancel", "cancelled")])
def test_one_group_that_fails_leaves_the_others_alone(text: str, reason: str) -> None:
    guard = Guard(Clings(GOOD), deadline=0.3)

    async def all_groups() -> list[list[Judgement]]:
        texts = ["one", text, "two"]
        return await asyncio.gather(
            *(guard.judge_group(SAMPLE, REFERENCE, [Caption(said)], QUESTIONS) for said in texts)
        )

    with Background() as loop:
        assert loop.run(all_groups(), 2.0) == [[GOOD], [Judgement()], [GOOD]]
    assert guard.reasons == {reason: 1}


def test_a_background_leaves_nothing_open() -> None:
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with Background() as loop:
                loop.run(asyncio.sleep(0), 5.0)
        assert len(os.listdir("/proc/self/fd")) <= before
    finally:
        gc.enable()


def test_a_wait_ends_also_when_the_loop_is_blocked() -> None:
    async def block() -> None:
        time.sleep(1)

    with Background() as loop, pytest.raises(TimeoutError):
        loop.run(block(), 0.1)
