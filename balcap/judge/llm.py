"""A language model as judge, behind an OpenAI-compatible endpoint.

    judge = make_llm_judge(params.train.judge, params.runtime, parts)

Per caption up to three calls, and one per question and round; each is made only when a wanted part needs it:

    precision    picture, caption          -> statements, each verified and pointable     (or reference, caption)
    recall       units, caption            -> the units that are covered
    linguistic   caption                   -> clarity, fluency, coherency
    answer       caption, question         -> an option; its order changes with each round

A picture with its captions is one unit of work. Equal captions are judged once; what comes before the caption is the
same bytes for the whole group, so that the server's prefix cache serves it; raw answers are cached for good
(``cache.py``), so that another rule of scoring asks nothing again. Captions are untrusted: they travel inside JSON
strings (``prompts.py``), one call each, so that none can touch another's verdicts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random
from typing import Any

from balcap import workspace
from balcap.judge.answers import AnswerError, parse, schema
from balcap.judge.base import Counting, JudgeMismatch
from balcap.judge.cache import AnswerCache, key
from balcap.judge.client import Call, CallFailed, Client
from balcap.judge.prompts import Prompt, pinned_prompts
from balcap.params.judge import LlmJudge as LlmParams
from balcap.params.runtime import Runtime
from balcap.records import CANNOT_BE_ANSWERED, MARKS, Caption, Judgement, Question, Reference, Sample

REVISION = "1"
"""Of the rules below; one that changes a judgement raises it."""
UNANSWERABLE = "cannot be answered from the caption"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SECOND_TEMPERATURE = 0.5
"""Of the one further attempt after an answer out of form: at 0 it would be the same."""
MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Ask:
    """One question to the model: what is rendered, what bounds the answer, and what makes it this question."""

    kind: str
    key: str
    values: dict[str, Any]
    bounds: dict[str, Any]
    order: tuple[int, ...] = ()
    """Of the options: position -> index in the question."""


class LlmJudge(Counting):
    """See the module's text; ``fills`` are the parts that it is asked for."""

    name = "llm"
    revision = REVISION

    def __init__(
        self,
        params: LlmParams,
        prompts: Mapping[str, Prompt],
        client: Client,
        cache: AnswerCache,
        parts: Collection[str],
    ) -> None:
        super().__init__()
        self.params, self.prompts, self.client, self.cache = params, prompts, client, cache
        marks = MARKS if set(MARKS) & set(parts) else ()
        self.fills = frozenset(parts) | frozenset(marks)
        self.deadline = client.serving.timeout * (client.serving.retries + 2)
        """Seconds to wait for an answer that another process is getting."""

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per caption; what the model did not say in form stays ``None`` and is counted."""
        scene = _Scene(sample, reference, questions, seed)
        asked = {caption: self._asks(scene, caption) for caption in dict.fromkeys(map(_normal, captions))}
        asks = {ask.key: ask for group in asked.values() for ask in group}
        notes = {name: (ask.kind, sample.image_id) for name, ask in asks.items()}
        answers = await self.cache.answers(list(asks), lambda k: self._ask(scene, asks[k]), self.deadline, notes)
        parts = {name: self._part(asks[name], answer) for name, answer in answers.items()}
        return [self._judgement(caption, scene, asked[caption], parts) for caption in map(_normal, captions)]

    async def close(self) -> None:
        """Let go of connections and of the cache."""
        await self.client.close()
        self.cache.close()

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far, and what the cache spared; as metrics."""
        counts = self.client.account() | {"cache": {name: getattr(self.cache, name) for name in ("hits", "misses")}}
        return {f"judge/{kind}/{name}": float(n) for kind, row in counts.items() for name, n in row.items()}

    def _asks(self, scene: _Scene, caption: Caption) -> list[Ask]:
        """What has to be asked about a caption: nothing of an empty one, and of a cut-off one no verdicts."""
        if not caption.text:
            return []
        text: dict[str, Any] = {"caption": caption.text}
        asks = [] if caption.truncated else self._verdicts(scene, text)
        rounds = range(self.params.rounds if "answers" in self.fills else 0)
        return asks + [self._question(scene, text, question, n) for question in scene.questions for n in rounds]

    def _verdicts(self, scene: _Scene, text: dict[str, Any]) -> list[Ask]:
        wanted, units = self.fills, scene.reference.units
        asks = []
        if "assertions" in wanted:
            seen = text if self.params.sees_picture else {"reference": scene.reference.caption, **text}
            asks.append(self._new(scene, "precision", seen))
        if "covered" in wanted and units:
            numbered = {str(n): unit for n, unit in enumerate(units, 1)}
            asks.append(self._new(scene, "recall", {"units": numbered, **text}, {"units": len(units)}))
        if MARKS[0] in wanted:
            asks.append(self._new(scene, "linguistic", text))
        return asks

    def _question(self, scene: _Scene, text: dict[str, Any], question: Question, n: int) -> Ask:
        """Round ``n`` of a question: the options in an order of its own."""
        order = list(range(len(question.options)))
        Random(json.dumps([scene.seed, question.image_id, question.question])).shuffle(order)
        order = order[n % len(order) :] + order[: n % len(order)]  # no option stands in one place twice
        letters = LETTERS[: len(order) + 1]
        shown = [*(question.options[i] for i in order), UNANSWERABLE]
        values = {**text, "question": question.question, "options": dict(zip(letters, shown, strict=True))}
        return self._new(scene, "answer", values, {"options": letters}, (*order, CANNOT_BE_ANSWERED))

    def _new(
        self,
        scene: _Scene,
        kind: str,
        values: dict[str, Any],
        bounds: dict[str, Any] | None = None,
        order: tuple[int, ...] = (),
    ) -> Ask:
        """The key names all that the answer depends on: model, prompt, its form, picture if seen, what is rendered."""
        params, prompt = self.params, self.prompts[kind]
        seen = scene.sample.image_id if self._shows(kind) else ""
        bounds = bounds or {}
        form = _form(kind, getattr(params.max_tokens, kind), *bounds.items())
        rendered = json.dumps(values, ensure_ascii=False)
        name = key(params.model, params.model_revision, kind, prompt.sha256, form, seen, rendered)
        return Ask(kind, name, values, bounds, order)

    def _shows(self, kind: str) -> bool:
        return kind == "precision" and self.params.sees_picture

    async def _ask(self, scene: _Scene, ask: Ask) -> str:
        """The model's raw answer, in form; one out of form is asked for once more, and never kept."""
        call = self._call(scene, ask)
        for attempt in (call, _warmer(call)):
            answer = await self.client.chat(attempt)
            try:
                parse(ask.kind, answer.text, **ask.bounds)
                return answer.text
            except AnswerError as error:
                reason = str(error)
        raise CallFailed(reason)

    def _call(self, scene: _Scene, ask: Ask) -> Call:
        prompt = self.prompts[ask.kind]
        said: Any = prompt.render(**ask.values)
        if self._shows(ask.kind):
            said = [{"type": "image_url", "image_url": {"url": scene.data_url}}, {"type": "text", "text": said}]
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": said}]
        limit = getattr(self.params.max_tokens, ask.kind)
        return Call(ask.kind, messages, schema(ask.kind, **ask.bounds), limit, scene.sample.image_id)

    def _part(self, ask: Ask, answer: str | BaseException) -> Any:
        """What an answer says; ``None`` and a count for one that failed or that these rules cannot read."""
        if isinstance(answer, asyncio.CancelledError):
            raise answer
        try:
            if isinstance(answer, BaseException):
                raise answer
            part = parse(ask.kind, answer, **ask.bounds)
        except Exception as error:  # the model is a boundary: its failure is an unknown part
            reason = str(error) if isinstance(error, CallFailed | AnswerError) else type(error).__name__
            self.failed(f"{ask.kind}: {reason}")
            return None
        return ask.order[part] if ask.kind == "answer" else part

    def _judgement(self, caption: Caption, scene: _Scene, asks: list[Ask], parts: Mapping[str, Any]) -> Judgement:
        if not caption.text:
            return self._of_nothing(scene)
        said = {ask.kind: parts[ask.key] for ask in asks if ask.kind != "answer"}
        clarity, fluency, coherency = said.get("linguistic") or (None, None, None)
        rounds = [parts[ask.key] for ask in asks if ask.kind == "answer"]
        answers = self._answers(scene, rounds)
        return Judgement(said.get("precision"), said.get("recall"), clarity, fluency, coherency, answers)

    def _answers(self, scene: _Scene, said: list[Any]) -> tuple[tuple[int, ...], ...] | None:
        """Rounds per question; a single round that failed leaves all unknown, for the mean would be another one."""
        if "answers" not in self.fills or None in said:
            return None
        n = self.params.rounds
        return tuple(tuple(said[i * n : (i + 1) * n]) for i in range(len(scene.questions)))

    def _of_nothing(self, scene: _Scene) -> Judgement:
        """An empty caption says nothing, covers nothing and reads as badly as can be: known without asking."""
        nothing = ((CANNOT_BE_ANSWERED,) * self.params.rounds,) * len(scene.questions)
        return Judgement((), (False,) * len(scene.reference.units), 1, 1, 1, nothing)


@dataclass(frozen=True)
class _Scene:
    """What a group's calls share."""

    sample: Sample
    reference: Reference
    questions: tuple[Question, ...]
    seed: int

    @cached_property
    def data_url(self) -> str:
        """The stored bytes as they are, encoded once per group."""
        kind = next((kind for magic, kind in MAGIC.items() if self.sample.image.startswith(magic)), "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.sample.image).decode()}"


@lru_cache(1024)
def _form(kind: str, limit: int, *bounds: tuple[str, Any]) -> str:
    """What bounds an answer besides the words: longest answer and schema."""
    return json.dumps([limit, schema(kind, **dict(bounds))])


def _normal(caption: Caption) -> Caption:
    """Unicode's composed form without outer blanks: texts that read alike are one question."""
    return Caption(unicodedata.normalize("NFC", caption.text).strip(), caption.truncated)


def _warmer(call: Call) -> Call:
    return Call(call.kind, call.messages, call.schema, call.max_tokens, call.route, 1, SECOND_TEMPERATURE)


def make_llm_judge(params: LlmParams, runtime: Runtime, parts: Collection[str]) -> LlmJudge:
    """The judge with its pinned prompts, a client for ``runtime.serving`` and the shared cache of answers."""
    prompts = pinned_prompts(params, "judge")
    cache = AnswerCache(workspace.work_root() / "judge" / "answers.sqlite")
    try:
        client = Client(params.model, runtime.serving[params.model])
    except ValueError as error:  # the key is not in the environment
        raise JudgeMismatch(str(error)) from None
    return LlmJudge(params, prompts, client, cache, parts)
