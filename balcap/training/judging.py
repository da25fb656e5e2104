"""Judging in the background: one event loop in one thread, dispatched as soon as captions exist, with a deadline.

    judging.dispatch(groups)            # returns at once
    ...                                 # the rest of the step goes on meanwhile
    scored = judging.collect()          # waits for what is left

One judgement per caption serves all rewards; the unit of work is one picture with its group of captions. Whatever a
judge does (``balcap.judge.guard``), the outcome is a :class:`Scored` per group whose unknown parts are ``None`` and
whose unknown rewards are NaN.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from balcap import rewards
from balcap.evaluation.detectors import text_scores
from balcap.judge.guard import Guard
from balcap.llm import background
from balcap.llm.background import Background, take
from balcap.params.train import Train
from balcap.records import Caption, Judge, Judgement, Picture
from balcap.rewards import length
from balcap.rewards.base import worthless


@dataclass(frozen=True)
class Group:
    """One picture and the captions sampled for it."""

    picture: Picture
    captions: list[Caption]


@dataclass(frozen=True)
class Scored:
    """A judged group: rewards float64 [n, K] behind the mask, and per caption mask, words, length ratio [n].

    ``text`` [n, detectors] is what ``balcap.evaluation.detectors`` finds; ``quality`` [n, all rewards] what every
    reward would be, on or off, pointable and without the mask.

    ``unknown`` [n] counts the parts that the rewards need and the judge owed; ``needed`` [n] all those parts.
    """

    judgements: list[Judgement]
    rewards: NDArray[np.float64]
    masked: NDArray[np.bool_]
    words: NDArray[np.float64]
    ratio: NDArray[np.float64]
    text: NDArray[np.float64]
    quality: NDArray[np.float64]
    unknown: NDArray[np.float64]
    needed: NDArray[np.float64]


class Judging:
    """Judges groups of captions for training; see the module's text."""

    def __init__(self, judge: Judge, params: Train) -> None:
        self.judge, self.params = judge, params
        self.guard = Guard(judge, params.judge_deadline)
        self.names = rewards.names(params.reward_weights)
        bound = rewards.bind(judge.fills)
        self.parts = sorted(frozenset().union(*(bound[name].needs for name in self.names)) & judge.fills)
        self.seconds = 0.0
        """Wall seconds that the last batch took to judge."""
        self._background = Background()
        self._groups: list[Group] = []
        self._future: Future[list[list[Judgement]]] | None = None
        self._give_up = 0.0

    def dispatch(self, groups: list[Group]) -> None:
        """Start to judge ``groups``. The judge's seed is the run's, so that equal captions are asked alike."""
        self._groups = groups
        self._give_up = time.monotonic() + self.params.judge_deadline + background.GRACE
        self._future = self._background.submit(self._judge_all(groups))

    def collect(self) -> list[Scored]:
        """The dispatched groups, in order, each scored; waits until the deadline at most."""
        if self._future is None:
            raise RuntimeError("nothing was dispatched")
        future, self._future = self._future, None
        try:
            judged = take(future, self._give_up - time.monotonic())
        except TimeoutError:  # the judge blocks the loop itself
            self.guard.reasons["blocked"] += len(self._groups)
            judged = [[Judgement()] * len(group.captions) for group in self._groups]
        return [self._score(group, judgements) for group, judgements in zip(self._groups, judged, strict=True)]

    def close(self) -> None:
        """Stop judging; what still runs is abandoned."""
        with suppress(TimeoutError):
            self._background.run(self.judge.close(), background.GRACE)
        self._background.close()

    async def _judge_all(self, groups: list[Group]) -> list[list[Judgement]]:
        start = time.monotonic()
        judged = list(await asyncio.gather(*map(self._judge_one, groups)))
        self.seconds = time.monotonic() - start
        return judged

    async def _judge_one(self, group: Group) -> list[Judgement]:
        known, seed = group.picture, self.params.seed
        return await self.guard.judge_group(known.sample, known.reference, group.captions, known.questions, seed)

    def _score(self, group: Group, judgements: list[Judgement]) -> Scored:
        params, captions = self.params, group.captions
        reference, questions = group.picture.reference, group.picture.questions
        matrix, masked = rewards.score(
            judgements,
            captions,
            reference,
            questions,
            params.reward_weights,
            self.judge.fills,
            params.length_mask,
            params.pointable,
        )
        parts = [part for part in self.parts if part != "answers" or questions]
        owed = [0 if worthless(caption) else len(parts) for caption in captions]
        missing = [sum(getattr(judgement, part) is None for part in parts) for judgement in judgements]
        return Scored(
            judgements,
            matrix,
            masked,
            words=np.array([length.words(c.text) for c in captions], dtype=np.float64),
            ratio=np.array([length.ratio(c, reference) for c in captions], dtype=np.float64),
            text=np.array([list(text_scores(c.text).values()) for c in captions], dtype=np.float64),
            quality=rewards.quality(judgements, captions, reference, questions, self.judge.fills),
            unknown=np.minimum(missing, owed).astype(np.float64),
            needed=np.array(owed, dtype=np.float64),
        )
