"""The exact judge of the embedded world: reads a caption by rule and tests it against the facts of the scene.

    judge = Oracle()
    judgements = await judge.judge_group(sample, reference, captions, questions, seed=0)

Needs ``sample.meta["scene"]``; knows nothing of any other picture. It judges the text as it stands: that empty and
truncated captions earn nothing is the rewards' rule. Rules in ``balcap.scenes``; a change there that changes a verdict
raises the revision.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from balcap.judge.base import Counting
from balcap.records import Assertion, Caption, Judgement, Question, Reference, Sample
from balcap.scenes import Atom, Scene, answer, covered, marks, parse, pointable, say, verified


class Oracle(Counting):
    """Judges by rule and fills every part; the seed decides between contradicting answers and nothing else."""

    name = "oracle"
    revision = "1"
    fills = frozenset({"assertions", "covered", "clarity", "fluency", "coherency", "answers"})

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per caption; equal captions and assertions are judged once. Without a scene all is unknown."""
        try:
            scene = Scene.from_json(sample.meta["scene"])
        except (KeyError, ValueError):
            self.failed("no scene", len(captions))
            return [Judgement() for _ in captions]
        assess = cache(lambda atom: Assertion(say(atom), verified(atom, scene), pointable(atom)))
        texts = dict.fromkeys(caption.text for caption in captions)
        judged = {text: self._judge(assess, reference, text, questions, seed) for text in texts}
        return [judged[caption.text] for caption in captions]

    def _judge(
        self,
        assess: Callable[[Atom], Assertion],
        reference: Reference,
        text: str,
        questions: tuple[Question, ...],
        seed: int,
    ) -> Judgement:
        clarity, fluency, coherency = marks(text)
        return Judgement(
            assertions=tuple(map(assess, parse(text).atoms())),
            covered=covered(reference.units, text),
            clarity=clarity,
            fluency=fluency,
            coherency=coherency,
            answers=self._answers(text, questions, seed),
        )

    def _answers(self, text: str, questions: tuple[Question, ...], seed: int) -> tuple[tuple[int, ...], ...] | None:
        """One round per question; ``None`` if one of them is no question about a scene."""
        try:
            return tuple((answer(q.question, q.options, text, seed),) for q in questions)
        except ValueError:
            self.failed("not a question about a scene", 1)
            return None
