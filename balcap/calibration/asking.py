"""How captions are put before a judge that is measured: sixteen pictures at once, and no part that nobody looks at.

judged, reasons = await ask(judge, groups, deadline=300.0, seed=0, what="calibrate")
judge = judge_at("http://127.0.0.1:8732/v1", PARTS, folder)       a model that no recipe names yet
second = afresh(judge, folder)                                    the same judge without what it remembers
"""

from __future__ import annotations

import asyncio
import copy
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from balcap.judge.guard import Guard
from balcap.judge.llm import REVISION, SHARE_OF_DEADLINE, LlmJudge
from balcap.judge.noisy import Noisy
from balcap.judge.prompts import load_prompt
from balcap.llm.asking import LONGEST
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params.judge import Calls, Prompts
from balcap.params.judge import LlmJudge as LlmParams
from balcap.params.runtime import Serving
from balcap.progress import Progress
from balcap.records import PARTS, Caption, Judge, Judgement, Picture

AT_ONCE = 16
"""Pictures before the judge at the same time."""
MAX_TOKENS = Calls(precision=2000, recall=400, linguistic=50, answer=20)
IN_FLIGHT, TIMEOUT, RETRIES = 64, 120.0, 3
CONNECT_SECONDS = 10.0


class NoEndpoint(ValueError):
    """Nothing answers there as a server of language models does; the message names address and remedy."""


@dataclass(frozen=True)
class Group:
    """Captions of one picture, and the parts of their judgements that are wanted."""

    picture: Picture
    texts: Sequence[str]
    parts: frozenset[str] = frozenset(PARTS)


async def ask(
    judge: Judge, groups: Sequence[Group], deadline: float, seed: int, what: str
) -> tuple[list[list[Judgement]], Counter[str]]:
    """Judgements of every group, each within ``deadline`` seconds from its turn on; why parts of them are unknown."""
    gate, progress = asyncio.Semaphore(AT_ONCE), Progress(what, len(groups), "groups")
    guards = {parts: Guard(only(judge, parts), deadline) for parts in {group.parts for group in groups}}
    before = Counter(judge.failures)

    async def one(group: Group) -> list[Judgement]:
        async with gate:
            judged = await _judged(guards[group.parts], group, seed)
        progress.advance()
        return judged

    judged = list(await asyncio.gather(*map(one, groups)))
    return judged, sum((guard.reasons for guard in guards.values()), Counter(judge.failures) - before)


async def _judged(guard: Guard, group: Group, seed: int) -> list[Judgement]:
    """Nothing is asked for no caption, or for parts that this judge never fills."""
    if not group.texts or not guard.judge.fills:
        return [Judgement()] * len(group.texts)
    captions = [Caption(text) for text in group.texts]
    return await guard.judge_group(group.picture.sample, group.picture.reference, captions, (), seed)


def only(judge: Judge, parts: Collection[str]) -> Judge:
    """The same judge (connections, cache and counts are shared), asked for these parts at most."""
    narrowed = copy.copy(judge)
    narrowed.fills = judge.fills & frozenset(parts)
    if isinstance(narrowed, Noisy):
        narrowed.judge = only(narrowed.judge, parts)
    return narrowed


def title(judge: Judge) -> str:
    """The judge's name, and of a language model which one."""
    return f"{judge.name} {judge.params.model}" if isinstance(judge, LlmJudge) else judge.name


def afresh(judge: Judge, folder: Path) -> Judge:
    """The same judge with an empty cache in ``folder``: what is stored says nothing of how stable it is.

    A judge by rule remembers nothing.
    """
    if not isinstance(judge, LlmJudge):
        return judge
    client = Client(judge.params.model, judge.asking.client.serving)
    cache = AnswerCache(folder / "answers.sqlite")
    return LlmJudge(judge.params, judge.prompts, client, cache, judge.fills, judge.asking.deadline)


def judge_at(
    url: str, parts: Collection[str], folder: Path, sees_picture: bool = True, deadline: float = LONGEST
) -> LlmJudge:
    """The model that is served at ``url``, with the prompts as they are; raises :class:`NoEndpoint`.

    Its answers are kept in ``folder``: without a revision of the weights they are nobody else's.
    """
    files = {"precision": "precision" if sees_picture else "precision-text"}
    prompts = {kind: load_prompt(files.get(kind, kind)) for kind in Prompts.model_fields}
    params = LlmParams(
        name="llm",
        revision=REVISION,
        max_failure_rate=1.0,
        model=_served(url),
        model_revision=url,
        sees_picture=sees_picture,
        rounds=1,
        prompts=Prompts(**{kind: prompt.sha256 for kind, prompt in prompts.items()}),
        max_tokens=MAX_TOKENS,
    )
    serving = Serving(urls=(url.rstrip("/"),), api_key_env=None, in_flight=IN_FLIGHT, timeout=TIMEOUT, retries=RETRIES)
    cache = AnswerCache(folder / "answers.sqlite")
    client = Client(params.model, serving)
    return LlmJudge(params, prompts, client, cache, parts, SHARE_OF_DEADLINE * deadline)


def _served(url: str) -> str:
    """Name of the first model there."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/models", timeout=CONNECT_SECONDS) as answer:
            listed: dict[str, Any] = json.load(answer)
        return str(listed["data"][0]["id"])
    except (urllib.error.URLError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise NoEndpoint(
            f"{url}: no list of models there ({error}); an address ends in /v1, and `balcap serve judge --model DIR` "
            "or `balcap serve oracle` prints its own"
        ) from None
