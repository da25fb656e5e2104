"""Held-out captions before the judge: one group per picture, base and policy in it, every wait with a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from balcap.judge.guard import Guard
from balcap.llm.background import GRACE, Background
from balcap.progress import Progress
from balcap.records import Caption, Judgement, Picture
from balcap.rewards.base import worthless

AT_ONCE = 16
"""Pictures that are before the judge at the same time."""


class JudgeFailed(ValueError):
    """More parts stayed unknown than ``evaluate.judge.max_failure_rate`` allows, or the judge blocks."""


def judge_all(
    guard: Guard, pictures: Sequence[Picture], captions: Sequence[list[Caption]], seed: int
) -> list[list[Judgement]]:
    """Judgements of each picture's captions, in order; what the guard cannot get is unknown and counted there."""
    longest = math.ceil(len(pictures) / AT_ONCE) * guard.deadline + GRACE
    with Background() as loop:
        try:
            judged = loop.run(_judge(guard, pictures, captions, seed), longest)
            loop.run(guard.judge.close(), GRACE)
            return judged
        except TimeoutError:
            raise JudgeFailed(
                f"judge {guard.judge.name} blocks: {len(pictures)} pictures took more than {longest:.0f} s, although "
                f"evaluate.judge_deadline is {guard.deadline:g} s for each; it must wait asynchronously"
            ) from None


async def _judge(
    guard: Guard, pictures: Sequence[Picture], captions: Sequence[list[Caption]], seed: int
) -> list[list[Judgement]]:
    gate = asyncio.Semaphore(AT_ONCE)
    progress = Progress("judge", len(pictures), "pictures")

    async def one(picture: Picture, group: list[Caption]) -> list[Judgement]:
        async with gate:
            judged = await guard.judge_group(picture.sample, picture.reference, group, picture.questions, seed)
            progress.advance()
            return judged

    return list(await asyncio.gather(*(one(p, group) for p, group in zip(pictures, captions, strict=True))))


def failure_rate(
    fills: frozenset[str],
    pictures: Sequence[Picture],
    captions: Sequence[list[Caption]],
    judged: Sequence[list[Judgement]],
) -> float:
    """Share of the parts that the judge owed and left unknown.

    Answers are owed only where there are questions, and of a caption that earns nothing anyhow they alone are.
    """
    unknown = asked = 0
    for picture, group, said in zip(pictures, captions, judged, strict=True):
        for caption, judgement in zip(group, said, strict=True):
            parts = (fills & {"answers"} if worthless(caption) else fills) - (
                set() if picture.questions else {"answers"}
            )
            asked += len(parts)
            unknown += sum(getattr(judgement, part) is None for part in parts)
    return unknown / asked if asked else 0.0


def check_failures(
    guard: Guard,
    pictures: Sequence[Picture],
    captions: Sequence[list[Caption]],
    judged: Sequence[list[Judgement]],
    allowed: float,
) -> float:
    """The failure rate; raises :class:`JudgeFailed` above ``allowed``, with the reasons and their counts."""
    rate = failure_rate(guard.judge.fills, pictures, captions, judged)
    if rate > allowed:
        raise JudgeFailed(
            f"judge {guard.judge.name} left {rate:.1%} of its verdicts unknown ({guard.why()}); "
            f"evaluate.judge.max_failure_rate allows {allowed:.1%}"
        )
    return rate
