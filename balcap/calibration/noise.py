"""A judge that is wrong on purpose: each verdict of another judge is flipped with a known probability.

Shows that a calibration finds the error rate that is there. A verdict's fate depends on the seed, the picture and the
statement, and so does not change when the same is asked again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from balcap.judge.base import Counting
from balcap.records import Assertion, Caption, Judge, Judgement, Question, Reference, Sample


class Flipped(Counting):
    """``judge`` with every verdict (verified, pointable, covered) flipped with probability ``rate``."""

    def __init__(self, judge: Judge, rate: float, seed: int = 0) -> None:
        super().__init__()
        self.failures = judge.failures  # the same counts
        self.judge, self.rate, self.seed = judge, rate, seed
        self.name, self.revision, self.fills = f"{judge.name} with {rate:.0%} flips", judge.revision, judge.fills

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """As the judge says, flipped."""
        judged = await self.judge.judge_group(sample, reference, captions, questions, seed)
        return [self._flip(sample.image_id, c.text, said, seed) for c, said in zip(captions, judged, strict=True)]

    def _flip(self, picture: str, text: str, said: Judgement, seed: int) -> Judgement:
        def flip(verdict: bool, *what: object) -> bool:
            name = repr((self.seed, seed, picture, text, *what)).encode()
            return verdict != (int.from_bytes(hashlib.sha256(name).digest()[:8], "big") < self.rate * 2**64)

        made, units = said.assertions, said.covered
        return replace(
            said,
            assertions=None
            if made is None
            else tuple(
                Assertion(a.text, flip(a.verified, "v", i, a.text), flip(a.pointable, "p", i, a.text))
                for i, a in enumerate(made)
            ),
            covered=None if units is None else tuple(flip(yes, "c", i) for i, yes in enumerate(units)),
        )

    def account(self) -> dict[str, float]:
        """The judge's."""
        return self.judge.account()

    async def ready(self) -> str:
        """As the judge says."""
        return await self.judge.ready()

    async def close(self) -> None:
        """Close the judge."""
        await self.judge.close()
