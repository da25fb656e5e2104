"""A judge before a labelled set: what it says of every statement, unit and caption, beside the truth.

    measured = measure(judge, cases, deadline=60.0, seed=0)
    measured.scores["verified"]["error"]      Score(value, low, high, n)

A statement counts as verified (pointable) when everything that the judge makes of it is. What the judge leaves unknown
is no verdict: it is counted in ``unknown`` and enters no statistic; what it never fills is not counted. The spread of a
repetition is measured by asking the same with another seed, of ``again``: the judge without its memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from balcap.calibration.agreement import differences, verdicts
from balcap.calibration.asking import AT_ONCE, Group, ask, title
from balcap.calibration.labelled import Case
from balcap.evaluation.stats import Score
from balcap.llm.background import GRACE, Background
from balcap.records import PARTS, Caption, Judge, Judgement
from balcap.rewards import REWARDS as RULES
from balcap.rewards import bind

REWARDS = ("precision", "recall", "linguistic")
VERIFIED = frozenset({"assertions"})
COVERED = frozenset({"covered"})
Scores = dict[str, dict[str, Score]]


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


def measure(
    judge: Judge, cases: Sequence[Case], deadline: float, seed: int = 0, again: Judge | None = None
) -> Measured:
    """Put every case before ``judge``, the captions a second time before ``again``, and compare; both are closed."""
    second = again or judge
    longest = math.ceil(3 * len(cases) / AT_ONCE) * deadline + GRACE
    captions = [Group(case.picture, [text for text, _ in case.truths], _known_of(case)) for case in cases]
    with Background() as loop:
        found, reasons = loop.run(ask(judge, _groups(cases, captions), deadline, seed, "calibrate"), longest)
        repeated, _ = loop.run(ask(second, captions, deadline, seed + 1, "again"), longest)
        for closing in {id(one): one for one in (judge, second)}.values():
            loop.run(closing.close(), GRACE)
    said = [_Said(*found[3 * i : 3 * i + 3]) for i in range(len(cases))]
    scores, unknown = _verdict_scores(judge.fills, cases, said)
    rewards, points, missing = _reward_scores(judge.fills, cases, said, repeated)
    return Measured(title(judge), scores | rewards, points, unknown | missing, dict(reasons))


def _known_of(case: Case) -> frozenset[str]:
    """The parts of a judgement that are known of any of its captions: no other is asked for."""
    return frozenset(part for part in PARTS if any(getattr(truth, part) is not None for _, truth in case.truths))


def _groups(cases: Sequence[Case], captions: Sequence[Group]) -> list[Group]:
    """Three per case; of a single statement only its verdicts are of interest, of a covering only its units."""
    return [
        group
        for case, whole in zip(cases, captions, strict=True)
        for group in (
            Group(case.picture, [claim.text for claim in case.claims], VERIFIED),
            Group(case.picture, [covering.text for covering in case.coverings], COVERED),
            whole,
        )
    ]


def _verdict_scores(
    fills: frozenset[str], cases: Sequence[Case], said: Sequence[_Said]
) -> tuple[Scores, dict[str, int]]:
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
        unknown[name] = sum(len(c.claims) for c in cases) - sum(len(t) for t, _ in pairs) if fills >= VERIFIED else 0
    pairs = [_known(_units(c, s)) for c, s in zip(cases, said, strict=True)]
    scores["covered"] = verdicts([t for t, _ in pairs], [s for _, s in pairs])
    units = sum(len(v.covered) for c in cases for v in c.coverings)
    unknown["covered"] = units - sum(len(t) for t, _ in pairs) if fills >= COVERED else 0
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
    fills: frozenset[str], cases: Sequence[Case], said: Sequence[_Said], again: Sequence[Sequence[Judgement]]
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
                for (text, truth), first, second in zip(case.truths, one.truths, two, strict=True)
            ]
            for case, one, two in zip(cases, said, again, strict=True)
        ]
        true, first, second = ([[triple[i] for triple in row] for row in rows] for i in range(3))
        scores[name] = differences(true, first) | {"retest": differences(first, second)["noise"]}
        flat = [(t, f) for row in rows for t, f, _ in row if not math.isnan(t)]
        points[name] = [(t, f) for t, f in flat if not math.isnan(f)]
        unknown[name] = len(flat) - len(points[name]) if RULES[name].needs & fills else 0
    return scores, points, unknown
