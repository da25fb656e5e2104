"""What a question is worth (CapRL, arXiv 2509.22647): a language model answers it with the picture and without.

    accuracy  =  share of its rounds answered rightly; as many rounds as options, each option once in every place

    reader = make_reader(params.collect_questions.reader, params.runtime)
    measured = await reader.measure(sample, questions)          # with accuracy_with_image, accuracy_without_image

The last option says that the question cannot be answered, which is wrong here: a model that sees nothing and says so
has guessed nothing. One round that failed leaves its accuracy unknown (NaN). ``collect/curate.py`` keeps what needs the
picture and no more than the picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from balcap.judge.answers import form
from balcap.judge.base import Counting
from balcap.judge.options import lettered, turned
from balcap.judge.prompts import pinned
from balcap.llm.asking import LONGEST, Ask, Asking, Shown
from balcap.llm.background import GRACE, Background
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.llm.prompts import Prompt
from balcap.llm.reach import open_cache, open_client
from balcap.params.collect import QuestionReader
from balcap.params.runtime import Runtime
from balcap.progress import Progress
from balcap.records import Question, Sample

CANNOT = "cannot be answered"
PROMPTS = {"seen": "question-seen", "blind": "question-blind"}
AT_ONCE = 32
"""Pictures before the model at the same time."""


class ReaderFailed(ValueError):
    """More accuracies stayed unknown than ``collect_questions.reader.max_failure_rate`` allows."""


class Reader(Counting):
    """See the module's text."""

    def __init__(
        self, params: QuestionReader, prompts: Mapping[str, Prompt], client: Client, cache: AnswerCache
    ) -> None:
        super().__init__()
        self.params, self.prompts = params, prompts
        self.asking = Asking(params.model, params.model_revision, client, cache, self.failed)

    async def measure(self, sample: Sample, questions: Sequence[Question]) -> list[Question]:
        """The questions of one picture with both accuracies, in order; one look at the cache for all."""
        shown = Shown(sample)
        rounds = [
            {how: [self._ask(shown, question, how, n) for n in range(len(question.options))] for how in PROMPTS}
            for question in questions
        ]
        asks = [ask for found in rounds for turns in found.values() for ask in turns]
        said = await self.asking.parts(asks, shown)
        return [
            replace(
                question,
                accuracy_with_image=accuracy(question, [said[ask.key] for ask in found["seen"]]),
                accuracy_without_image=accuracy(question, [said[ask.key] for ask in found["blind"]]),
            )
            for question, found in zip(questions, rounds, strict=True)
        ]

    async def close(self) -> None:
        """Let go of connections and of the cache."""
        await self.asking.close()

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far; as metrics."""
        return self.asking.account()

    def _ask(self, shown: Shown, question: Question, how: str, turn: int) -> Ask:
        order = turned(question, 0, turn)
        values = lettered(question, order, CANNOT)
        seen = shown.sha256 if how == "seen" else ""
        bound = form("answer", options="".join(values["options"]), order=order)
        return self.asking.new("answer", self.prompts[how], values, self.params.max_tokens, bound, seen)


def accuracy(question: Question, said: Sequence[int | None]) -> float:
    """Share of right answers in [0, 1]; NaN when one is unknown."""
    if None in said:
        return float("nan")
    return sum(index == question.answer for index in said) / len(said)


def measure_all(reader: Reader, samples: Iterable[Sample], questions: Sequence[Question]) -> list[Question]:
    """All questions measured, in the order of the pictures; closes the reader.

    Pictures are read in batches, so that memory does not grow with their number. Raises :class:`ReaderFailed`.
    """
    of: dict[str, list[Question]] = {}
    for question in questions:
        of.setdefault(question.image_id, []).append(question)
    asked = (sample for sample in samples if sample.image_id in of)
    progress, measured = Progress("measure_questions", len(of), "pictures"), []
    with Background() as loop:
        for batch in iter(lambda: list(islice(asked, AT_ONCE)), []):
            measured += loop.run(_measure(reader, batch, of, progress), LONGEST + GRACE)
        with suppress(TimeoutError):  # all is read and kept; what still closes is abandoned
            loop.run(reader.close(), GRACE)
    _check(reader, measured)
    return measured


async def _measure(
    reader: Reader, batch: list[Sample], of: Mapping[str, list[Question]], progress: Progress
) -> list[Question]:
    async def one(sample: Sample) -> list[Question]:
        found = await reader.measure(sample, of[sample.image_id])
        progress.advance()
        return found

    return [question for found in await asyncio.gather(*map(one, batch)) for question in found]


def _check(reader: Reader, measured: Sequence[Question]) -> None:
    values = [v for q in measured for v in (q.accuracy_with_image, q.accuracy_without_image)]
    unknown = sum(value != value for value in values)
    if unknown > reader.params.max_failure_rate * len(values):
        why = ", ".join(f"{reason}: {n}" for reason, n in sorted(reader.failures.items(), key=lambda item: -item[1]))
        raise ReaderFailed(
            f"{reader.params.model} left {unknown} of {len(values)} accuracies of questions unknown ({why}); "
            f"collect_questions.reader.max_failure_rate allows {reader.params.max_failure_rate:.1%}"
        )


def reader_prompts(params: QuestionReader) -> dict[str, Prompt]:
    """The prompt with the picture and the one without; raises ``PromptError`` for another file than the pinned one."""
    hashes, key = params.prompts.model_dump(), "collect_questions.reader.prompts"
    return {how: pinned(name, hashes[how], f"{key}.{how}") for how, name in PROMPTS.items()}


def make_reader(params: QuestionReader, runtime: Runtime) -> Reader:
    """The reader with its pinned prompts, a client for ``runtime.serving`` and the shared cache of answers."""
    return Reader(params, reader_prompts(params), open_client(params.model, runtime), open_cache())
