"""Questions to a language model, each asked once: what makes it this question, its answer in form, and its failures.

    asking = Asking("Qwen/Qwen2.5-VL-7B-Instruct", "main", client, cache, failed)
    ask = asking.new("recall", prompt, {"units": {"1": "A cat."}, "caption": "A dog."}, limit=64, bounds={"units": 1})
    parts = await asking.parts([ask], Shown(sample))                 # {ask.key: (False,)}; None for what failed

Raw answers are cached for good (``cache.py``) and read by ``answers.py``; an answer out of form is asked for once more,
warmer, and never kept. What fails is ``None`` and counted under its reason.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from random import Random
from typing import Any

from balcap import workspace
from balcap.judge.answers import AnswerError, parse, schema
from balcap.judge.base import JudgeMismatch
from balcap.judge.cache import AnswerCache, key
from balcap.judge.client import Call, CallFailed, Client
from balcap.judge.prompts import Prompt
from balcap.params import Params
from balcap.params.runtime import Runtime
from balcap.records import CANNOT_BE_ANSWERED, Question, Sample

UNANSWERABLE = "cannot be answered from the caption"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SECOND_TEMPERATURE = 0.5
"""Of the one further attempt after an answer out of form: at 0 it would be the same."""
LONGEST = 3600.0
"""Seconds for a group of questions, waiting for places included, where who asks sets no other deadline."""
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Ask:
    """One question to the model: what is rendered, what bounds the answer, and what makes it this question."""

    kind: str
    """Of answer (``answers.schema``), and the row in the account."""
    prompt: Prompt
    key: str
    values: Mapping[str, Any]
    limit: int
    """Tokens."""
    sees: bool
    """Whether the picture is sent along."""
    bounds: Mapping[str, Any]
    order: tuple[int, ...] = ()
    """Of the options: position -> index in the question."""


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
    ) -> None:
        self.model, self.revision, self.client, self.cache, self.failed = model, revision, client, cache, failed
        self.deadline = deadline

    def new(
        self,
        kind: str,
        prompt: Prompt,
        values: Mapping[str, Any],
        limit: int,
        bounds: Mapping[str, Any] | None = None,
        picture: str = "",
        order: tuple[int, ...] = (),
    ) -> Ask:
        """The question; ``picture`` is its sha256 if it is sent along. The key names all that the answer depends on."""
        bounds = bounds or {}
        rendered = json.dumps(values, ensure_ascii=False)
        form = _form(kind, limit, *bounds.items())
        name = key(self.model, self.revision, kind, prompt.sha256, form, picture, rendered)
        return Ask(kind, prompt, name, values, limit, bool(picture), bounds, order)

    async def parts(self, asks: Sequence[Ask], shown: Shown) -> dict[str, Any]:
        """Per key what the model says of it, asked in one look at the cache; ``None`` for what failed."""
        by_key = {ask.key: ask for ask in asks}
        notes = {name: (ask.kind, shown.sample.image_id) for name, ask in by_key.items()}
        answers = await self.cache.answers(list(by_key), lambda k: self._ask(by_key[k], shown), self.deadline, notes)
        return {name: self._part(by_key[name], answer) for name, answer in answers.items()}

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far, and what the cache spared; as metrics."""
        counts = self.client.account() | {"cache": {name: getattr(self.cache, name) for name in ("hits", "misses")}}
        return {f"judge/{kind}/{name}": float(n) for kind, row in counts.items() for name, n in row.items()}

    async def close(self) -> None:
        """Let go of connections and of the cache."""
        await self.client.close()
        self.cache.close()

    async def _ask(self, ask: Ask, shown: Shown) -> str:
        """The model's raw answer, in form."""
        call = _call(ask, shown)
        for attempt in (call, replace(call, seed=1, temperature=SECOND_TEMPERATURE)):
            answer = await self.client.chat(attempt)
            try:
                parse(ask.kind, answer.text, **ask.bounds)
                return answer.text
            except AnswerError as error:
                reason = str(error)
        raise CallFailed(reason)

    def _part(self, ask: Ask, answer: str | BaseException) -> Any:
        """What an answer says; ``None`` and a count for one that failed or that these rules cannot read."""
        if isinstance(answer, asyncio.CancelledError):
            raise answer
        try:
            if isinstance(answer, BaseException):
                raise answer
            part = parse(ask.kind, answer, **ask.bounds)
        except Exception as error:  # the model is a boundary: its failure is an unknown part
            self.failed(f"{ask.kind}: {_reason(error)}")
            return None
        return ask.order[part] if ask.order else part


def _reason(error: Exception) -> str:
    """Short and countable."""
    if isinstance(error, TimeoutError):
        return "deadline"
    return str(error) if isinstance(error, CallFailed | AnswerError) else type(error).__name__


def turned(question: Question, seed: int, turn: int) -> tuple[int, ...]:
    """An order of the options for round ``turn``: drawn from the seed, then rotated, so that none stands twice in one
    place while there are no more rounds than options."""
    order = list(range(len(question.options)))
    Random(json.dumps([seed, question.image_id, question.question])).shuffle(order)
    start = turn % len(order)
    return (*order[start:], *order[:start], CANNOT_BE_ANSWERED)


def lettered(question: Question, order: tuple[int, ...], cannot: str = UNANSWERABLE) -> dict[str, Any]:
    """What is rendered of a question: its text, and the options under letters, ``cannot`` last."""
    shown = [cannot if index == CANNOT_BE_ANSWERED else question.options[index] for index in order]
    return {"question": question.question, "options": dict(zip(LETTERS, shown, strict=False))}


def open_cache() -> AnswerCache:
    """The cache that all runs share; raises ``JudgeMismatch`` for a file of something else."""
    try:
        return AnswerCache(workspace.work_root() / "judge" / "answers.sqlite")
    except ValueError as error:  # ForeignFile
        raise JudgeMismatch(str(error)) from None


def open_client(model: str, runtime: Runtime) -> Client:
    """A client for ``runtime.serving``; raises ``JudgeMismatch`` for an address that is none or a missing key."""
    try:
        return Client(model, runtime.serving[model])
    except ValueError as error:
        raise JudgeMismatch(str(error)) from None


def silent_models(params: Params) -> list[str]:
    """For each model that ``params`` would ask and of which no endpoint answers now, what to do about it."""
    asked = params.asked_models
    found = {model: _silence(model, params.runtime) for model in set(asked.values())}
    said = [(key.partition(".")[0], found[model]) for key, model in asked.items()]
    return [f"{stage}: {why}, before that stage is reached" for stage, why in said if why]


def _silence(model: str, runtime: Runtime) -> str:
    async def ask(client: Client) -> str:
        try:
            return await unreachable(client)
        finally:
            await client.close()

    try:
        return asyncio.run(ask(open_client(model, runtime)))
    except JudgeMismatch as error:  # its key is not in the environment
        return f"{error}; set it"


async def unreachable(client: Client) -> str:
    """Which addresses do not answer, if none does; else nothing."""
    health = await client.healthy()
    if any(health.values()):
        return ""
    return f"no endpoint of {client.model} answers ({', '.join(health)}); start it, or mend runtime.serving"


def _call(ask: Ask, shown: Shown) -> Call:
    said: Any = ask.prompt.render(**ask.values)
    if ask.sees:
        said = [{"type": "image_url", "image_url": {"url": shown.data_url}}, {"type": "text", "text": said}]
    messages = [{"role": "system", "content": ask.prompt.system}, {"role": "user", "content": said}]
    return Call(ask.kind, messages, schema(ask.kind, **ask.bounds), ask.limit, shown.sample.image_id)


@lru_cache(1024)
def _form(kind: str, limit: int, *bounds: tuple[str, Any]) -> str:
    """What bounds an answer besides the words: longest answer and schema."""
    return json.dumps([limit, schema(kind, **dict(bounds))])
