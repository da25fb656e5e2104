"""A judge before a labelled set: what it says of every statement, unit and caption, beside the truth.

    measured = measure(judge, cases, deadline=60.0, seed=0)
    measured.scores["verified"]["error"]      Score(value, low, high, n)

A statement counts as verified (pointable) when everything that the judge makes of it is. What the judge leaves unknown
is no verdict: it is counted in ``unknown`` and enters no statistic. The spread of a repetition is measured by asking
the same with another seed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from balcap.calibration.agreement import differences, verdicts
from balcap.calibration.labelled import Case
from balcap.evaluation.stats import Score
from balcap.judge.guard import GRACE, Background, Guard
from balcap.progress import Progress
from balcap.records import Caption, Judge, Judgement
from balcap.rewards import bind

AT_ONCE = 16
"""Pictures before the judge at the same time."""
REWARDS = ("precision", "recall", "linguistic")
Scores = dict[str, dict[str, Score]]
T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """What was found; ``points`` holds (truth, judge) of every caption per reward, for the reliability plot."""

    judge: str
    scores: Scores
    points: Mapping[str, list[tuple[float, float]]]
    unknown: Mapping[str, int]
    """Verdicts and rewards that the judge left unknown."""
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class _Said:
    """A judge's judgements of one case, in the case's order."""

    claims: list[Judgement]
    coverings: list[Judgement]
    truths: list[Judgement]


def measure(judge: Judge, cases: Sequence[Case], deadline: float, seed: int = 0) -> Measured:
    """Put every case before ``judge`` twice and compare; the judge is closed."""
    guard = Guard(judge, deadline)
    longest = 2 * math.ceil(3 * len(cases) / AT_ONCE) * deadline + GRACE
    with Background() as loop:
        said = loop.run(_ask_all(guard, cases, seed), longest)
        again = loop.run(_ask_all(guard, cases, seed + 1), longest)
        loop.run(judge.close(), GRACE)
    scores, unknown = _verdict_scores(cases, said)
    rewards, points, missing = _reward_scores(judge.fills, cases, said, again)
    return Measured(judge.name, scores | rewards, points, unknown | missing, dict(guard.reasons))


async def _ask_all(guard: Guard, cases: Sequence[Case], seed: int) -> list[_Said]:
    gate, progress = asyncio.Semaphore(AT_ONCE), Progress("calibrate", len(cases), "pictures")

    async def one(case: Case) -> _Said:
        async with gate:
            groups = [
                [c.text for c in case.claims],
                [c.text for c in case.coverings],
                [text for text, _ in case.truths],
            ]
            found = [await _ask(guard, case, texts, seed) for texts in groups]
            progress.advance()
            return _Said(*found)

    return list(await asyncio.gather(*map(one, cases)))


async def _ask(guard: Guard, case: Case, texts: list[str], seed: int) -> list[Judgement]:
    known = case.picture
    return (
        await guard.judge_group(known.sample, known.reference, [Caption(t) for t in texts], (), seed) if texts else []
    )


def _verdict_scores(cases: Sequence[Case], said: Sequence[_Said]) -> tuple[Scores, dict[str, int]]:
    """Agreement on ``verified``, ``pointable`` (of statements) and ``covered`` (of units)."""
    scores: Scores = {}
    unknown = {}
    for name in ("verified", "pointable"):
        pairs = [
            _known(
                [(getattr(claim, name), _all(judged, name)) for claim, judged in zip(c.claims, s.claims, strict=True)]
            )
            for c, s in zip(cases, said, strict=True)
        ]
        scores[name] = verdicts([t for t, _ in pairs], [s for _, s in pairs])
        unknown[name] = sum(len(c.claims) for c in cases) - sum(len(t) for t, _ in pairs)
    pairs = [_known(_units(c, s)) for c, s in zip(cases, said, strict=True)]
    scores["covered"] = verdicts([t for t, _ in pairs], [s for _, s in pairs])
    unknown["covered"] = sum(len(v.covered) for c in cases for v in c.coverings) - sum(len(t) for t, _ in pairs)
    return scores, unknown


def _units(case: Case, said: _Said) -> list[tuple[bool, bool | None]]:
    return [
        (truth, judged.covered[i] if judged.covered is not None else None)
        for covering, judged in zip(case.coverings, said.coverings, strict=True)
        for i, truth in enumerate(covering.covered)
    ]


def _all(judgement: Judgement, name: str) -> bool | None:
    """The verdict on a statement: of everything the judge makes of it; unknown if it makes nothing of it."""
    made = judgement.assertions
    return all(getattr(assertion, name) for assertion in made) if made else None


def _known(pairs: list[tuple[bool, bool | None]]) -> tuple[list[bool], list[bool]]:
    kept = [(truth, said) for truth, said in pairs if said is not None]
    return [t for t, _ in kept], [s for _, s in kept]


def _reward_scores(
    fills: frozenset[str], cases: Sequence[Case], said: Sequence[_Said], again: Sequence[_Said]
) -> tuple[Scores, dict[str, list[tuple[float, float]]], dict[str, int]]:
    """Bias and noise of each reward against the truth, and its spread when asked again."""
    table = bind(fills)
    scores: Scores = {}
    points, unknown = {}, {}
    for name in REWARDS:
        rule = table[name]
        rows = [
            [
                [rule(j, Caption(text), case.picture.reference) for j in (truth, first, second)]
                for (text, truth), first, second in zip(case.truths, one.truths, two.truths, strict=True)
            ]
            for case, one, two in zip(cases, said, again, strict=True)
        ]
        true, first, second = ([[triple[i] for triple in row] for row in rows] for i in range(3))
        scores[name] = differences(true, first) | {"retest": differences(first, second)["noise"]}
        flat = [(t, f) for row in rows for t, f, _ in row]
        points[name] = [(t, f) for t, f in flat if not math.isnan(f)]
        unknown[name] = len(flat) - len(points[name])
    return scores, points, unknown
