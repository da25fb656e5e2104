"""A judge behind a guard: whatever it does, every caption gets a judgement, and in time.

    guard = Guard(judge, deadline=60.0)
    judged = await guard.judge_group(sample, reference, captions)    # never raises, never late
    guard.why()                                                      # "deadline: 3, malformed covered: 1"

A judge that raises, hangs, is cancelled, answers for the wrong number of captions or out of form leaves what it did not
say unknown (``None``), and each such part or group is counted under its reason. The unit of work, and of the deadline,
is a group.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from typing import Any

from balcap.records import CANNOT_BE_ANSWERED, MARKS, Assertion, Caption, Judge, Judgement, Question, Reference, Sample

logger = logging.getLogger(__name__)


class Guard:
    """One judge, guarded; see the module's text."""

    def __init__(self, judge: Judge, deadline: float) -> None:
        self.judge, self.deadline = judge, deadline
        self.reasons: Counter[str] = Counter()

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per caption; unknown ones after ``deadline`` seconds or any other failure."""
        task = asyncio.ensure_future(self._ask(sample, reference, captions, questions, seed))
        try:
            await asyncio.wait({task}, timeout=self.deadline)
        finally:
            task.cancel()  # not awaited: what is slow to let go is late all the same
        judged = self._result(task, len(captions))
        if judged is None:
            return [Judgement()] * len(captions)
        return [self._in_form(judgement, reference, questions) for judgement in judged]

    async def _ask(self, *asked: Any) -> list[Judgement]:
        return await self.judge.judge_group(*asked)  # here, a judge that is no coroutine fails like any other

    def _result(self, task: asyncio.Task[list[Judgement]], count: int) -> list[Judgement] | None:
        """What the judge said, or ``None`` with the reason counted: a judge is a boundary, its failure ends no rank."""
        if not task.done():
            reason = "deadline"
        elif task.cancelled():
            reason = "cancelled"
        elif error := task.exception():
            reason = type(error).__name__
            logger.debug("judge failed", exc_info=error)
        elif len(task.result()) == count:
            return task.result()
        else:
            reason = "wrong number of judgements"
        self.reasons[reason] += 1
        return None

    def all_reasons(self) -> Counter[str]:
        """How often each reason left something unknown so far, its own and the judge's."""
        return self.reasons + Counter(self.judge.failures)

    def why(self) -> str:
        """The reasons of all failures so far, most frequent first."""
        return in_words(self.all_reasons())

    def _in_form(self, judgement: Judgement, reference: Reference, questions: tuple[Question, ...]) -> Judgement:
        wrong = malformed(judgement, reference, questions)
        self.reasons.update(f"malformed {part}" for part in wrong)
        return replace(judgement, **dict.fromkeys(wrong)) if wrong else judgement


def in_words(reasons: Counter[str]) -> str:
    """The most frequent reasons, with their numbers."""
    return ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common(5)) or "no reason given"


def malformed(judgement: Judgement, reference: Reference, questions: tuple[Question, ...]) -> list[str]:
    """The known parts that cannot be meant: of another type, for other units or questions, out of range."""
    wrong = [mark for mark in MARKS if not _is_mark(getattr(judgement, mark))]
    if not all(isinstance(a, Assertion) and _verdicts(a.verified, a.pointable) for a in judgement.assertions or ()):
        wrong.append("assertions")
    covered = judgement.covered
    if covered is not None and (len(covered) != len(reference.units) or not _verdicts(*covered)):
        wrong.append("covered")
    answers = judgement.answers
    if answers is not None and (
        len(answers) != len(questions) or not all(map(_is_answer, answers, (len(q.options) for q in questions)))
    ):
        wrong.append("answers")
    return wrong


def _is_mark(mark: object) -> bool:
    return mark is None or (type(mark) is int and 1 <= mark <= 5)


def _verdicts(*values: object) -> bool:
    return all(type(value) is bool for value in values)


def _is_answer(rounds: tuple[int, ...], options: int) -> bool:
    """At least one round, and in each an option of the question or the abstention."""
    return bool(rounds) and all(type(option) is int and CANNOT_BE_ANSWERED <= option < options for option in rounds)
