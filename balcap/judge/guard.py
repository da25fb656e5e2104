"""A judge behind a guard: whatever it does, every caption gets a judgement, and in time.

    guard = Guard(judge, deadline=60.0)
    judged = await guard.judge_group(sample, reference, captions)    # never raises, never late
    guard.why()                                                      # "deadline: 3, malformed covered: 1"
    with Background() as loop:
        loop.run(coroutine, 90.0)                                    # TimeoutError, also when the judge blocks its loop

A judge that raises, hangs, answers for the wrong number of captions or out of form leaves what it did not say unknown
(``None``), and each such part or group is counted under its reason. The unit of work, and of the deadline, is a group.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from balcap.records import CANNOT_BE_ANSWERED, MARKS, Caption, Judge, Judgement, Question, Reference, Sample

logger = logging.getLogger(__name__)
GRACE = 5.0
"""Seconds that a loop gets to report after a deadline; a judge that blocks it never does."""
T = TypeVar("T")


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
        try:
            task = self.judge.judge_group(sample, reference, captions, questions, seed)
            judged = await asyncio.wait_for(task, self.deadline)
            if len(judged) == len(captions):
                return [self._in_form(judgement, reference, questions) for judgement in judged]
            self.reasons["wrong number of judgements"] += 1
        except TimeoutError:
            self.reasons["deadline"] += 1
        except Exception as error:  # the judge is a boundary: its failure is an unknown reward, never a dead rank
            self.reasons[type(error).__name__] += 1
            logger.debug("judge failed", exc_info=error)
        return [Judgement()] * len(captions)

    def why(self) -> str:
        """The reasons of all failures so far, its own and the judge's, most frequent first."""
        reasons = self.reasons + Counter(self.judge.failures)
        return ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common(5)) or "no reason given"

    def _in_form(self, judgement: Judgement, reference: Reference, questions: tuple[Question, ...]) -> Judgement:
        wrong = malformed(judgement, reference, questions)
        self.reasons.update(f"malformed {part}" for part in wrong)
        return replace(judgement, **dict.fromkeys(wrong)) if wrong else judgement


def malformed(judgement: Judgement, reference: Reference, questions: tuple[Question, ...]) -> list[str]:
    """The known parts that cannot be meant: another number of units or questions, marks and options out of range."""
    covered, answers = judgement.covered, judgement.answers
    wrong = [mark for mark in MARKS if getattr(judgement, mark) not in (None, 1, 2, 3, 4, 5)]
    if covered is not None and len(covered) != len(reference.units):
        wrong.append("covered")
    if answers is not None and not (
        len(answers) == len(questions)
        and all(
            CANNOT_BE_ANSWERED <= option < len(question.options)
            for rounds, question in zip(answers, questions, strict=True)
            for option in rounds
        )
    ):
        wrong.append("answers")
    return wrong


class Background:
    """An event loop in a thread of its own: work goes on while the caller does, and no wait is without an end."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judging", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start ``work``; returns at once."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of ``work``; raises ``TimeoutError`` after ``seconds``."""
        return take(self.submit(work), seconds)

    def close(self) -> None:
        """Stop the loop; what still runs is abandoned."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GRACE)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def take(future: Future[T], seconds: float) -> T:
    """The result of ``future``; after ``seconds`` it is cancelled and ``TimeoutError`` raised."""
    try:
        return future.result(max(0.0, seconds))
    except TimeoutError:
        future.cancel()
        raise
