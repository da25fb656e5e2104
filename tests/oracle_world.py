"""The oracle behind its endpoint, on a free port of loopback, and the language-model judge that asks it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from balcap.judge.llm import LlmJudge
from balcap.judge.oracle import Oracle as Rule
from balcap.judge.prompts import load_prompt
from balcap.llm.background import Background
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params.judge import LlmJudge as Params
from balcap.params.runtime import Serving
from balcap.records import PARTS, Caption, Judgement, Picture, Sample
from balcap.serve.oracle import MODEL, Oracle, make_app

Group = tuple[Picture, list[Caption]]
PROMPTS = {kind: load_prompt(kind) for kind in ("precision", "recall", "linguistic", "answer")}
PARAMS = Params(
    name="llm",
    revision="1",
    max_failure_rate=0.05,
    model=MODEL,
    model_revision="truth",
    sees_picture=True,
    rounds=2,
    prompts={kind: prompt.sha256 for kind, prompt in PROMPTS.items()},  # type: ignore[arg-type]
    max_tokens={"precision": 2000, "recall": 200, "linguistic": 50, "answer": 10},  # type: ignore[arg-type]
)


class Counted(Oracle):
    """The oracle, which remembers what it was asked."""

    def __init__(self, samples: Iterable[Sample], fail: float = 0.0) -> None:
        super().__init__(samples, fail)
        self.calls: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []

    def say(self, body: dict[str, Any]) -> str:
        self.calls[body["response_format"]["json_schema"]["name"]] += 1
        self.bodies.append(body)
        return super().say(body)


class Endpoint:
    """``oracle``, served; it can die and come back under the same address."""

    def __init__(self, loop: Background, oracle: Oracle) -> None:
        self._loop, self._oracle, self._port = loop, oracle, 0
        self.revive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def revive(self) -> None:
        self._loop.run(self._listen(), 10.0)

    def die(self) -> None:
        """Close the port and all connections."""
        self._loop.run(self._runner.cleanup(), 10.0)

    async def _listen(self) -> None:
        self._runner = web.AppRunner(make_app(self._oracle), shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = int(self._runner.addresses[0][1])


@contextmanager
def endpoint(oracle: Oracle) -> Iterator[Endpoint]:
    """An endpoint for the length of the block."""
    with Background() as loop:
        serving = Endpoint(loop, oracle)
        yield serving
        serving.die()


@contextmanager
def served(oracle: Oracle) -> Iterator[str]:
    """The address of an endpoint that stays."""
    with endpoint(oracle) as serving:
        yield serving.url


def serving(url: str, retries: int = 1) -> Serving:
    return Serving(urls=(url,), api_key_env=None, in_flight=16, timeout=20.0, retries=retries)


def ask(
    url: str, folder: Path, groups: list[Group], parts: Collection[str] = PARTS, params: Params = PARAMS
) -> tuple[list[list[Judgement]], LlmJudge]:
    """The judge's judgements of all groups at once, through a cache in ``folder``; and the judge, closed."""
    judge = LlmJudge(params, PROMPTS, Client(MODEL, serving(url)), AnswerCache(folder / "answers.sqlite"), parts)

    async def everything() -> list[list[Judgement]]:
        tasks = (judge.judge_group(p.sample, p.reference, texts, p.questions, 0) for p, texts in groups)
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            await judge.close()

    with Background() as loop:
        return loop.run(everything(), 120.0), judge


def by_rule(groups: list[Group], rounds: int) -> list[list[Judgement]]:
    """What the oracle in process says of the same captions, each question answered the same in every round."""

    async def one(p: Picture, texts: list[Caption]) -> list[Judgement]:
        judged = await Rule().judge_group(p.sample, p.reference, texts, p.questions, 0)
        return [replace(j, answers=tuple(said * rounds for said in j.answers or ())) for j in judged]

    return [asyncio.run(one(p, texts)) for p, texts in groups]
