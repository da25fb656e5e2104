"""A language model as judge, behind an OpenAI-compatible endpoint.

    judge = make_llm_judge(params.train.judge, "train.judge", params.runtime, parts, params.train.judge_deadline)

Per caption up to three calls, and one per question and round; each is made only when a wanted part needs it:

    precision    picture, caption          -> statements, each verified and pointable     (or reference, caption)
    recall       units, caption            -> the units that are covered
    linguistic   caption                   -> clarity, fluency, coherency
    answer       caption, question         -> an option; its order changes with each round

A picture with its captions is one unit of work. Equal captions are judged once; what comes before the caption is the
same bytes for the whole group, so that the server's prefix cache serves it; raw answers are cached
(``cache.py``), so that another rule of scoring asks nothing again. Captions are untrusted: they travel inside JSON
strings (``prompts.py``), one call each, so that none can touch another's verdicts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from balcap.judge.answers import form
from balcap.judge.base import Counting
from balcap.judge.options import lettered, turned
from balcap.judge.prompts import pinned_prompts
from balcap.llm.asking import LONGEST, Ask, Asking, Shown
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.llm.prompts import Prompt
from balcap.llm.reach import open_cache, open_client, unreachable
from balcap.params.judge import LlmJudge as LlmParams
from balcap.params.runtime import Runtime
from balcap.records import CANNOT_BE_ANSWERED, MARKS, Caption, Judgement, Question, Reference, Sample

REVISION = "1"
"""Of the rules below; one that changes a judgement raises it."""
SHARE_OF_DEADLINE = 0.95
NO_BOUNDS: Mapping[str, Any] = {}


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
        deadline: float = LONGEST,
    ) -> None:
        super().__init__()
        self.params, self.prompts = params, prompts
        self.asking = Asking(params.model, params.model_revision, client, cache, self.failed, deadline)
        marks = MARKS if set(MARKS) & set(parts) else ()
        self.fills = frozenset(parts) | frozenset(marks)

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        """One judgement per caption; what the model did not say in form stays ``None`` and is counted."""
        scene = _Scene(Shown(sample), reference, questions, seed)
        asked = {caption: self._asks(scene, caption) for caption in dict.fromkeys(map(_normal, captions))}
        parts = await self.asking.parts([ask for group in asked.values() for ask in group], scene.shown)
        return [self._judgement(caption, scene, asked[caption], parts) for caption in map(_normal, captions)]

    async def close(self) -> None:
        """Let go of connections and of the cache."""
        await self.asking.close()

    async def ready(self) -> str:
        """Why it cannot judge: no endpoint answers."""
        return await unreachable(self.asking.client)

    def account(self) -> dict[str, float]:
        """Calls, attempts, failures and tokens so far, and what the cache spared; as metrics."""
        return self.asking.account()

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
        order = turned(question, scene.seed, n)
        values = {**text, **lettered(question, order)}
        return self._new(scene, "answer", values, {"options": "".join(values["options"]), "order": order})

    def _new(
        self,
        scene: _Scene,
        kind: str,
        values: dict[str, Any],
        bounds: Mapping[str, Any] = NO_BOUNDS,
    ) -> Ask:
        seen = scene.shown.sha256 if kind == "precision" and self.params.sees_picture else ""
        limit = getattr(self.params.max_tokens, kind)
        return self.asking.new(kind, self.prompts[kind], values, limit, form(kind, **bounds), seen)

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

    shown: Shown
    reference: Reference
    questions: tuple[Question, ...]
    seed: int


def _normal(caption: Caption) -> Caption:
    """Unicode's composed form without outer blanks: texts that read alike are one question."""
    return Caption(unicodedata.normalize("NFC", caption.text).strip(), caption.truncated)


def make_llm_judge(params: LlmParams, key: str, runtime: Runtime, parts: Collection[str], deadline: float) -> LlmJudge:
    """The judge with its pinned prompts, a client for ``runtime.serving`` and the shared cache of answers.

    ``deadline`` (s) is that of a group; questions end a little before it, so that what is answered counts.
    Raises ``Mismatch``, which names the parameters below ``key``.
    """
    prompts = pinned_prompts(params, key, kinds(parts))
    client = open_client(params.model, runtime)
    return LlmJudge(params, prompts, client, open_cache(), parts, SHARE_OF_DEADLINE * deadline)


def kinds(parts: Collection[str]) -> tuple[str, ...]:
    """The kinds of call that these parts of a judgement need."""
    needed = {"precision": {"assertions"}, "recall": {"covered"}, "linguistic": set(MARKS), "answer": {"answers"}}
    return tuple(kind for kind, gives in needed.items() if gives & set(parts))
