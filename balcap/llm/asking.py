"""Questions to a language model, each asked once: what makes it this question, its answer in form, and its failures.

    asking = Asking("Qwen/Qwen2.5-VL-7B-Instruct", "main", client, cache, failed)
    ask = asking.new("recall", prompt, {"units": {"1": "A cat."}, "caption": "A dog."}, 64, form)
    parts = await asking.parts([ask], Shown(sample))                 # {ask.key: (False,)}; None for what failed

Raw answers are cached (``cache.py``, up to 2 GB) and read by the question's form; an answer out of form is asked for
once more, warmer, and never kept. What fails is ``None`` and counted under its reason.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from balcap.llm.cache import AnswerCache, key
from balcap.llm.client import Call, CallFailed, Client
from balcap.llm.forms import AnswerError, Form
from balcap.llm.prompts import Prompt
from balcap.records import Sample

SECOND_TEMPERATURE = 0.5
"""Of the one further attempt after an answer out of form: at 0 it would be the same."""
LONGEST = 3600.0
"""Seconds for a group of questions, waiting for places included, where who asks sets no other deadline."""
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Ask:
    """One question to the model: what is rendered, what bounds the answer, and what makes it this question."""

    kind: str
    """Names the schema, and the row in the account."""
    prompt: Prompt
    key: str
    values: Mapping[str, Any]
    limit: int
    """Tokens."""
    sees: bool
    """Whether the picture is sent along."""
    form: Form
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Shown:
    """The picture that a group of questions is about."""

    sample: Sample

    @cached_property
    def data_url(self) -> str:
        """The stored bytes as they are, encoded once per group."""
        kind = next((kind for magic, kind in MAGIC.items() if self.sample.image.startswith(magic)), "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.sample.image).decode()}"

    @cached_property
    def sha256(self) -> str:
        """Of the stored bytes: ``image_id`` is that of the picture before it was made smaller."""
        return hashlib.sha256(self.sample.image).hexdigest()


class Asking:
    """See the module's text; ``failed`` is told the reason of each part that stays unknown.

    ``deadline`` (s) is for a group of questions: what is not answered by then is unknown, the rest counts. It should
    end before the deadline of who asks, which knows no parts.
    """

    def __init__(
        self,
        model: str,
        revision: str,
        client: Client,
        cache: AnswerCache,
        failed: Callable[[str], None],
        deadline: float = LONGEST,
        role: str = "judge",
    ) -> None:
        self.model, self.revision, self.client, self.cache, self.failed = model, revision, client, cache, failed
        self.deadline, self.role = deadline, role

    def new(
        self,
        kind: str,
        prompt: Prompt,
        values: Mapping[str, Any],
        limit: int,
        form: Form,
        picture: str = "",
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Ask:
        """The question; ``picture`` is its sha256 if it is sent along. The key names all that the answer depends on."""
        rendered = json.dumps(values, ensure_ascii=False)
        drawn = f", {temperature}, {seed}" if temperature or seed else ""
        bound = f"[{limit}, {form.text}{drawn}]"
        name = key(self.model, self.revision, kind, prompt.sha256, bound, picture, rendered)
        return Ask(kind, prompt, name, values, limit, bool(picture), form, temperature, seed)

    async def parts(self, asks: Sequence[Ask], shown: Shown) -> dict[str, Any]:
        """Per key what the model says of it, asked in one look at the cache; ``None`` for what failed."""
        by_key = {ask.key: ask for ask in asks}
        answers = await self._answers(by_key, shown)
        return {name: self._part(by_key[name], answer) for name, answer in answers.items()}

    async def one(self, ask: Ask, shown: Shown) -> Any:
        """What the model says; raises :class:`CallFailed`."""
        answers = await self._answers({ask.key: ask}, shown)
        return _read(ask, answers[ask.key])

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far, and what the cache spared; as metrics."""
        counts = self.client.account() | {"cache": {name: getattr(self.cache, name) for name in ("hits", "misses")}}
        return {f"{self.role}/{kind}/{name}": float(n) for kind, row in counts.items() for name, n in row.items()}

    async def close(self) -> None:
        """Let go of connections and of the cache."""
        await self.client.close()
        self.cache.close()

    async def _answers(self, by_key: Mapping[str, Ask], shown: Shown) -> dict[str, str | BaseException]:
        notes = {name: (ask.kind, shown.sample.image_id) for name, ask in by_key.items()}
        return await self.cache.answers(list(by_key), lambda k: self._ask(by_key[k], shown), self.deadline, notes)

    async def _ask(self, ask: Ask, shown: Shown) -> str:
        """The model's raw answer, in form."""
        call = _call(ask, shown)
        warmer = max(SECOND_TEMPERATURE, call.temperature)
        for attempt in (call, replace(call, seed=call.seed + 1, temperature=warmer)):
            answer = await self.client.chat(attempt)
            try:
                ask.form.read(answer.text)
                return answer.text
            except AnswerError as error:
                reason = str(error)
        raise CallFailed(reason)

    def _part(self, ask: Ask, answer: str | BaseException) -> Any:
        """What an answer says; ``None`` and a count for one that failed."""
        try:
            return _read(ask, answer)
        except CallFailed as failed:
            self.failed(f"{ask.kind}: {failed.reason}")
            return None


def _read(ask: Ask, answer: str | BaseException) -> Any:
    """What an answer says; raises :class:`CallFailed` for one that failed or that these rules cannot read."""
    if isinstance(answer, asyncio.CancelledError):
        raise answer
    try:
        if isinstance(answer, BaseException):
            raise answer
        return ask.form.read(answer)
    except Exception as error:  # the model is a boundary
        raise CallFailed(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Short and countable."""
    if isinstance(error, TimeoutError):
        return "deadline"
    return str(error) if isinstance(error, CallFailed | AnswerError) else type(error).__name__


def _call(ask: Ask, shown: Shown) -> Call:
    said: Any = ask.prompt.render(**ask.values)
    if ask.sees:
        said = [{"type": "image_url", "image_url": {"url": shown.data_url}}, {"type": "text", "text": said}]
    messages = [{"role": "user", "content": said}]
    if ask.prompt.system:
        messages.insert(0, {"role": "system", "content": ask.prompt.system})
    return Call(ask.kind, messages, ask.form.schema, ask.limit, shown.sample.image_id, ask.seed, ask.temperature)
