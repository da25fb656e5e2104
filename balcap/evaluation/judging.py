"""Held-out captions before the judge: one group per picture, base and policy in it, every wait with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from balcap.evaluation.cases import Picture
from balcap.progress import Progress
from balcap.records import Caption, Judge, Judgement

AT_ONCE = 16
"""Pictures that are before the judge at the same time."""
DEADLINE_SECONDS = 300.0
"""Longest wait for the judgements of one picture; after it they are unknown."""


class JudgeFailed(ValueError):
    """More parts stayed unknown than ``evaluate.judge.max_failure_rate`` allows."""


async def judge_all(
    judge: Judge,
    pictures: Sequence[Picture],
    captions: Sequence[list[Caption]],
    seed: int,
    deadline: float = DEADLINE_SECONDS,
) -> list[list[Judgement]]:
    """Judgements of each picture's captions, in order; what is late is unknown and counted in ``judge.failures``."""
    gate = asyncio.Semaphore(AT_ONCE)
    progress = Progress("judge", len(pictures), "pictures")

    async def one(picture: Picture, group: list[Caption]) -> list[Judgement]:
        async with gate:
            task = judge.judge_group(picture.sample, picture.reference, group, picture.questions, seed)
            try:
                return await asyncio.wait_for(task, deadline)
            except TimeoutError:
                judge.failures["deadline"] = judge.failures.get("deadline", 0) + 1
                return [Judgement() for _ in group]
            finally:
                progress.advance()

    return list(await asyncio.gather(*(one(p, group) for p, group in zip(pictures, captions, strict=True))))


def failure_rate(fills: frozenset[str], pictures: Sequence[Picture], judged: Sequence[list[Judgement]]) -> float:
    """Share of the parts that the judge fills and left unknown; answers count only where there are questions."""
    unknown = asked = 0
    for picture, group in zip(pictures, judged, strict=True):
        parts = fills if picture.questions else fills - {"answers"}
        asked += len(parts) * len(group)
        unknown += sum(getattr(judgement, part) is None for judgement in group for part in parts)
    return unknown / asked if asked else 0.0


def check_failures(
    judge: Judge, pictures: Sequence[Picture], judged: Sequence[list[Judgement]], allowed: float
) -> float:
    """The failure rate; raises :class:`JudgeFailed` above ``allowed``, with the judge's own counts."""
    rate = failure_rate(judge.fills, pictures, judged)
    if rate > allowed:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(judge.failures.items())) or "not counted"
        raise JudgeFailed(
            f"judge {judge.name} left {rate:.1%} of its verdicts unknown ({counts}); "
            f"evaluate.judge.max_failure_rate allows {allowed:.1%}"
        )
    return rate
