"""The evaluation as a whole: captions of base and policy, judged together, scored, compared.

results = evaluate(params.evaluate, base, policy, samples, references, questions, work, judge)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from balcap.evaluation.arena import arena
from balcap.evaluation.captions import caption_all
from balcap.evaluation.cases import Case, Row, columns
from balcap.evaluation.detectors import text_scores
from balcap.evaluation.judging import check_failures, judge_all
from balcap.evaluation.length import length_scores
from balcap.evaluation.qa import accuracy
from balcap.evaluation.rewards import reward_scores
from balcap.evaluation.stats import Score, compare
from balcap.judge.guard import Guard
from balcap.params.evaluate import Evaluate
from balcap.records import Caption, Judge, Judgement, Picture, Question, Reference, Sample


class NothingToEvaluate(ValueError):
    """No held-out picture has a reference."""


@dataclass(frozen=True)
class Results:
    """Everything that the outputs are written from."""

    cases: tuple[Case, ...]
    scores: dict[str, dict[str, Score]]
    """``base``, ``policy`` and ``difference``: a score per metric."""
    fills: frozenset[str]
    """What the judge can fill at all."""
    failure_rate: float
    account: dict[str, float]
    """What judging cost: calls and tokens."""


def evaluate(
    params: Evaluate,
    base: Path,
    policy: Path,
    samples: Iterable[Sample],
    references: Mapping[str, Reference],
    questions: Mapping[str, tuple[Question, ...]],
    work: Path,
    judge: Judge,
) -> Results:
    """Compare two captioner folders on the first ``max_images`` held-out pictures that have a reference.

    Raises :class:`NothingToEvaluate`, ``JudgeFailed``, ``PolicyError``; captions that are made stay
    in ``work``.
    """
    pictures = take_pictures(samples, references, questions, params.max_images)
    stored = [picture.sample for picture in pictures]
    made = [caption_all(params, name, path, stored, work) for name, path in (("base", base), ("policy", policy))]
    groups = [list(group) for group in zip(*made, strict=True)]
    guard = Guard(judge, params.judge_deadline)
    judged = judge_all(guard, pictures, groups, params.seed)
    rate = check_failures(guard, pictures, groups, judged, params.judge.max_failure_rate)
    cases = tuple(
        score_picture(picture, group, verdicts, judge.fills, params.seed)
        for picture, group, verdicts in zip(pictures, groups, judged, strict=True)
    )
    return Results(cases, compare_cases(cases, params), judge.fills, rate, judge.account())


def take_pictures(
    samples: Iterable[Sample],
    references: Mapping[str, Reference],
    questions: Mapping[str, tuple[Question, ...]],
    limit: int,
) -> list[Picture]:
    """The first ``limit`` pictures that have a reference, with their questions."""
    known = (sample for sample in samples if sample.image_id in references)
    pictures = [Picture(s, references[s.image_id], questions.get(s.image_id, ())) for s in islice(known, limit)]
    if not pictures:
        raise NothingToEvaluate("no held-out picture has a reference; raise prepare.split.eval_share or add captions")
    return pictures


def score_picture(
    picture: Picture, captions: list[Caption], judgements: list[Judgement], fills: frozenset[str], seed: int
) -> Case:
    """Score the captions of base and policy of one picture by every protocol."""
    fights = arena(picture.sample, picture.reference, captions, seed)
    rows = [
        Row(
            caption,
            judgement,
            {
                **reward_scores(fills, judgement, caption, picture.reference),
                "qa_accuracy": accuracy(judgement, picture.questions),
                "arena": fight,
                **length_scores(caption, picture.reference),
                **text_scores(caption.text),
            },
        )
        for caption, judgement, fight in zip(captions, judgements, fights, strict=True)
    ]
    return Case(picture, *rows)


def compare_cases(cases: tuple[Case, ...], params: Evaluate) -> dict[str, dict[str, Score]]:
    """Corpus scores with intervals."""
    return compare(
        columns(cases, "base"),
        columns(cases, "policy"),
        draws=params.bootstrap,
        confidence=params.confidence,
        seed=params.seed,
    )
