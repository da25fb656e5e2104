"""Judging in the background: one event loop in one thread, dispatched as soon as captions exist, with a deadline.

    judging.dispatch(groups, seed)      # returns at once
    ...                                 # the rest of the step goes on meanwhile
    scored = judging.collect()          # waits for what is left

One judgement per caption serves all rewards; the unit of work is one picture with its group of captions. Whatever a
judge does (raise, hang, answer for the wrong number of captions), the outcome is a :class:`Scored` per group whose
unknown parts are ``None`` and whose unknown rewards are NaN.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balcap import rewards
from balcap.params.train import Train
from balcap.records import Caption, Judge, Judgement, Reference, Sample
from balcap.rewards import length
from balcap.rewards.base import worthless

logger = logging.getLogger(__name__)
GRACE = 5.0
"""Seconds that a loop gets to report after the deadline; a judge that blocks it never does."""


@dataclass(frozen=True)
class Group:
    """One picture and the captions sampled for it."""

    sample: Sample
    reference: Reference
    captions: list[Caption]


@dataclass(frozen=True)
class Scored:
    """A judged group: rewards float64 [n, K] behind the mask, and per caption mask, words, length ratio [n].

    ``unknown`` [n] counts the parts that the rewards need and the judge owed; ``needed`` [n] all those parts.
    """

    judgements: list[Judgement]
    rewards: NDArray[np.float64]
    masked: NDArray[np.bool_]
    words: NDArray[np.float64]
    ratio: NDArray[np.float64]
    unknown: NDArray[np.float64]
    needed: NDArray[np.float64]


class Judging:
    """Judges groups of captions for training; see the module's text."""

    def __init__(self, judge: Judge, params: Train) -> None:
        self.judge, self.params = judge, params
        self.names = rewards.names(params.reward_weights)
        bound = rewards.bind(judge.fills)
        self.parts = sorted(frozenset().union(*(bound[name].needs for name in self.names)) & judge.fills)
        self.reasons: Counter[str] = Counter()
        self.seconds = 0.0
        """Wall seconds that the last batch took to judge."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judging", daemon=True)
        self._thread.start()
        self._groups: list[Group] = []
        self._future: concurrent.futures.Future[list[list[Judgement]]] | None = None
        self._give_up = 0.0

    def dispatch(self, groups: list[Group], seed: int) -> None:
        """Start to judge ``groups``; ``seed`` is handed to the judge."""
        self._groups = groups
        self._give_up = time.monotonic() + self.params.judge_deadline + GRACE
        self._future = asyncio.run_coroutine_threadsafe(self._judge_all(groups, seed), self._loop)

    def collect(self) -> list[Scored]:
        """The dispatched groups, in order, each scored; waits until the deadline at most."""
        if self._future is None:
            raise RuntimeError("nothing was dispatched")
        future, self._future = self._future, None
        try:
            judged = future.result(max(0.0, self._give_up - time.monotonic()))
        except concurrent.futures.TimeoutError:  # the judge blocks the loop itself
            future.cancel()
            self._failed("blocked", len(self._groups))
            judged = [[Judgement()] * len(group.captions) for group in self._groups]
        return [self._score(group, judgements) for group, judgements in zip(self._groups, judged, strict=True)]

    def why(self) -> str:
        """The reasons of all failures so far, most frequent first."""
        reasons = self.reasons + Counter(self.judge.failures)
        return ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common(5)) or "no reason given"

    def close(self) -> None:
        """Stop the loop; what still runs is abandoned."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(GRACE)

    async def _judge_all(self, groups: list[Group], seed: int) -> list[list[Judgement]]:
        start = time.monotonic()
        tasks = [asyncio.create_task(self._judge_one(group, seed)) for group in groups]
        done, late = await asyncio.wait(tasks, timeout=self.params.judge_deadline)
        for task in late:
            task.cancel()
        if late:
            self._failed("deadline", len(late))
        self.seconds = time.monotonic() - start
        return [
            task.result() if task in done else [Judgement()] * len(group.captions)
            for task, group in zip(tasks, groups, strict=True)
        ]

    async def _judge_one(self, group: Group, seed: int) -> list[Judgement]:
        """One judgement per caption; whatever goes wrong, unknown ones."""
        try:
            judged = await self.judge.judge_group(group.sample, group.reference, group.captions, seed=seed)
            if len(judged) == len(group.captions):
                return judged
            self._failed("wrong number of judgements")
        except Exception as error:  # the judge is a boundary: its failure is an unknown reward, never a dead rank
            self._failed(type(error).__name__)
            logger.debug("judge failed", exc_info=error)
        return [Judgement()] * len(group.captions)

    def _failed(self, reason: str, n: int = 1) -> None:
        self.reasons[reason] += n

    def _score(self, group: Group, judgements: list[Judgement]) -> Scored:
        params, captions, reference = self.params, group.captions, group.reference
        matrix, masked = rewards.score(
            judgements, captions, reference, params.reward_weights, self.judge.fills, params.length_mask
        )
        owed = [0 if worthless(caption) else len(self.parts) for caption in captions]
        missing = [sum(getattr(judgement, part) is None for part in self.parts) for judgement in judgements]
        return Scored(
            judgements,
            matrix,
            masked,
            words=np.array([length.words(c.text) for c in captions], dtype=np.float64),
            ratio=np.array([length.ratio(c, reference) for c in captions], dtype=np.float64),
            unknown=np.minimum(missing, owed).astype(np.float64),
            needed=np.array(owed, dtype=np.float64),
        )
