"""Writer `llm`: a vision-language model captions each picture; its caption is split by rule, or by the model once more.

    caption    picture, instruction    -> the caption, free text
    split      caption                 -> its atomic statements

The instruction is that of ``prompts/caption.md``, or of the picture's own record in a file (paper: ShareGPT4V's own
prompts), which is sent as it stands. Pictures are asked about ahead of their turn, as many as ``runtime.serving`` lets
be under way; answers are kept, up to 2 GB (``balcap.llm.cache``), so that a killed run asks nothing twice. A caption
that is refused, empty, cut off or out of form is a picture without a reference, with the reason, and never an empty
one; so is one whose split fails, or that took longer than all its calls together may.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from balcap.collect.engine import Unwritten
from balcap.collect.file import FileWriter
from balcap.collect.texts import clean
from balcap.collect.units import split_units
from balcap.hashing import sha256_text
from balcap.llm.asking import LONGEST, Ask, Asking, Shown
from balcap.llm.background import GRACE, Background, cancel_others, take
from balcap.llm.client import CallFailed
from balcap.llm.forms import AnswerError, Form, array_of, first_object, list_in, object_of
from balcap.llm.prompts import Prompt, pinned, verbatim
from balcap.llm.reach import open_cache, open_client
from balcap.params.collect import LlmWriter as LlmParams
from balcap.params.runtime import Runtime
from balcap.records import Reference, Sample
from balcap.refusal import REFUSAL

FOLDER = Path(__file__).with_name("prompts")
AS_RECORDED = sha256_text("llm 1: the model is asked with the instruction of the picture's record, as it stands")
"""Identity of how these references were made, where no one prompt tells it."""
MOST_UNITS, LONGEST_UNIT = 200, 400
"""Units, and characters of one: both bound what a model that loses itself can write."""
AHEAD = 2
"""Pictures asked about ahead, in windows of the client: one slow answer does not leave places empty."""


class LlmWriter:
    """See the module's text. ``words`` by kind of call; ``instructions`` where they come from records."""

    def __init__(
        self, params: LlmParams, words: Mapping[str, Prompt], asking: Asking, instructions: FileWriter | None
    ) -> None:
        self.params, self.words, self.asking, self.instructions = params, words, asking, instructions
        self.made = AS_RECORDED if instructions else words["caption"].sha256

    def __call__(self, samples: Iterable[Sample]) -> Generator[list[Reference] | Unwritten, None, None]:
        """What comes of each sample, in order; at its end all connections are closed."""
        room = AHEAD * self.asking.client.serving.in_flight
        ahead: deque[Future[list[Reference] | Unwritten]] = deque()
        with Background() as loop:
            try:
                for sample in samples:
                    ahead.append(loop.submit(self.write(sample)))
                    if len(ahead) >= room:
                        yield take(ahead.popleft(), LONGEST + GRACE)
                while ahead:
                    yield take(ahead.popleft(), LONGEST + GRACE)
            finally:
                with suppress(TimeoutError):  # what still closes is abandoned; answers are kept as they come
                    loop.run(self._close(), GRACE)

    async def write(self, sample: Sample) -> list[Reference] | Unwritten:
        """The picture's reference, or why it has none."""
        shown = Shown(sample)
        try:
            async with asyncio.timeout(LONGEST):  # of both calls together, for which the caller waits once
                caption = await self._caption(sample, shown)
                units = await self._units(caption, shown)
        except Unwritten as why:
            return why
        except TimeoutError:
            return Unwritten("deadline")
        name = f"llm {self.params.model}@{self.params.model_revision}"
        return [Reference(sample.image_id, caption, units, name, self.made)]

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far; as metrics."""
        return self.asking.account()

    async def _close(self) -> None:
        """What is not wanted any more gives back its right to ask, which the cache keeps, and then all is closed."""
        await cancel_others()
        await self.asking.close()

    async def _caption(self, sample: Sample, shown: Shown) -> str:
        values = {"instruction": self.instructions(sample)[0]} if self.instructions else {}
        drawn = self.params.temperature, self.params.seed
        prompt, limit = self.words["caption"], self.params.max_tokens
        return str(
            await self._said(self.asking.new("caption", prompt, values, limit, CAPTION, shown.sha256, *drawn), shown)
        )

    async def _units(self, caption: str, shown: Shown) -> tuple[str, ...]:
        splitter = self.params.splitter
        if splitter.name == "rule":
            return split_units(caption)
        ask = self.asking.new("split", self.words["split"], {"caption": caption}, splitter.max_tokens, UNITS)
        return tuple(await self._said(ask, shown))

    async def _said(self, ask: Ask, shown: Shown) -> Any:
        try:
            return await self.asking.one(ask, shown)
        except CallFailed as failed:
            raise Unwritten(f"{ask.kind}: {failed.reason}") from None


def read_caption(text: str) -> str:
    """The caption without outer blanks; raises :class:`AnswerError`."""
    if re.search(REFUSAL, text):
        raise AnswerError("refusal")
    if not any(ch.isalnum() for ch in text):
        raise AnswerError("no words")
    return _in_form(text)


def read_units(text: str) -> tuple[str, ...]:
    """Statements in order, each once; raises :class:`AnswerError`. A full list may lack what came behind it."""
    found = list_in(first_object(text), "units")
    if len(found) >= MOST_UNITS:
        raise AnswerError("too many units")
    if not found:
        raise AnswerError("no units")
    return tuple(dict.fromkeys(map(_in_form, found)))


def _in_form(text: Any) -> str:
    try:
        return clean(text, "text")
    except ValueError:
        raise AnswerError("no text") from None


CAPTION = Form(None, read_caption)
UNITS = Form(object_of(units=array_of({"type": "string", "maxLength": LONGEST_UNIT}, MOST_UNITS)), read_units)


def words(params: LlmParams) -> dict[str, Prompt]:
    """The pinned prompts by kind of call; raises ``PromptError`` for another file than the pinned one."""
    key, found = "collect_references.writer", {}
    if params.instruction.name == "prompt":
        found["caption"] = pinned("caption", params.instruction.prompt, f"{key}.instruction.prompt", FOLDER)
    else:
        found["caption"] = verbatim("instruction")
    if params.splitter.name == "llm":
        found["split"] = pinned("split", params.splitter.prompt, f"{key}.splitter.prompt", FOLDER)
    return found


def make_writer(params: LlmParams, runtime: Runtime, instructions: FileWriter | None) -> LlmWriter:
    """The writer with its prompts, a client for ``runtime.serving`` and the shared cache of answers.

    Raises ``Mismatch`` for another prompt than the pinned one, an address that is none or a missing key.
    """
    client = open_client(params.model, runtime)
    asking = Asking(params.model, params.model_revision, client, open_cache(), _ignore, role="writer")
    return LlmWriter(params, words(params), asking, instructions)


def _ignore(reason: str) -> None:
    """Reasons are told per picture."""
