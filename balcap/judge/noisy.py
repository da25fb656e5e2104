"""A judge that errs on purpose: verdicts of another judge flipped and marks moved, each with a known probability.

    judge = Noisy(Oracle(), flip=0.1, shift=0.2, seed=0)

What becomes of a verdict depends on the seeds, the picture, the caption and the statement alone: the same caption of
the same picture is misjudged in the same way whenever it comes, as by a language model at temperature 0. So training
can be tested against judge noise of known size, and a calibration must find the error rate that is there.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from balcap.judge.base import Counting
from balcap.records import Assertion, Caption, Judge, Judgement, Question, Reference, Sample


class Noisy(Counting):
    """``judge`` with every verdict (verified, pointable, covered) flipped with probability ``flip``, every mark moved
    by one with probability ``shift``. Answers to questions stay as they are.
    """

    def __init__(self, judge: Judge, flip: float, shift: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.failures = judge.failures  # the same counts
        self.judge, self.flip, self.shift, self.seed = judge, flip, shift, seed
        self.revision, self.fills = judge.revision, judge.fills
        self.name = f"{judge.name} with {flip:.0%} flips" + (f" and {shift:.0%} shifts" if shift else "")

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """As the judge says, with errors."""
        judged = await self.judge.judge_group(sample, reference, captions, questions, seed)
        return [self._spoil((seed, sample.image_id, c.text), said) for c, said in zip(captions, judged, strict=True)]

    def _spoil(self, caption: tuple[object, ...], said: Judgement) -> Judgement:
        def turned(verdict: bool, *what: object) -> bool:
            return verdict != (self._number(*caption, *what) < self.flip)

        made, units = said.assertions, said.covered
        return replace(
            said,
            assertions=None
            if made is None
            else tuple(
                Assertion(a.text, turned(a.verified, "v", i, a.text), turned(a.pointable, "p", i, a.text))
                for i, a in enumerate(made)
            ),
            covered=None if units is None else tuple(turned(yes, "c", i) for i, yes in enumerate(units)),
            clarity=self._moved(said.clarity, *caption, "clarity"),
            fluency=self._moved(said.fluency, *caption, "fluency"),
            coherency=self._moved(said.coherency, *caption, "coherency"),
        )

    def _moved(self, mark: int | None, *what: object) -> int | None:
        """The mark, or with probability ``shift`` a neighbour of it; 1 and 5 have one only."""
        number = self._number(*what)
        if mark is None or number >= self.shift:
            return mark
        up = number < self.shift / 2
        return mark + 1 if mark == 1 or (up and mark < 5) else mark - 1

    def _number(self, *what: object) -> float:
        """A number in [0, 1) that belongs to these facts and to the judge's seed."""
        return int.from_bytes(hashlib.sha256(repr((self.seed, *what)).encode()).digest()[:8], "big") / 2**64

    def account(self) -> dict[str, float]:
        """The judge's."""
        return self.judge.account()

    async def ready(self) -> str:
        """As the judge says."""
        return await self.judge.ready()

    async def close(self) -> None:
        """Close the judge."""
        await self.judge.close()
