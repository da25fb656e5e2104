"""What a misbehaving endpoint makes of rewards: what failed is unknown, counted once, and nobody else is harmed.

One picture, four captions; every call about one of them (of one kind) goes wrong for good, all others are answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle_world as world
import pytest
from bad_server import Asked, BadServer
from evaluation_world import captions, picture

from balcap.judge.guard import Guard
from balcap.judge.llm import LlmJudge
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params.runtime import Serving
from balcap.params.train import LengthMask
from balcap.records import Caption, Judgement
from balcap.rewards import score
from balcap.serve.oracle import MODEL, Oracle

KNOWN = picture(3)
GROUP = [*captions(3), Caption("A small red circle is at the top-left."), Caption("The background is plain grey.")]
VICTIM = 2
PARTS = ("assertions", "covered", "clarity")
WEIGHTS: dict[Any, float] = {"precision": 1.0, "recall": 1.0, "linguistic": 1.0}
OPEN = LengthMask(name="none", tau_low=0.5, tau_high=2.0, softness=None)
COLUMN = {"precision": 0, "recall": 1, "linguistic": 2}

WIRE = {
    "429": "http 429",
    "429 after an hour": "http 429",
    "500": "http 500",
    "reset": "connection",
    "hang up": "connection",
    "stall in body": "timeout",
    "400": "refused 400",
    "401": "key refused",
    "half body": "not a completion",
    "html": "not a completion",
    "empty choices": "empty",
    "refusal": "refusal",
    "cut off": "cut off",
    "large": "too large",
    "half json": "no JSON",
}
"""Fault of the server -> the reason that is counted."""
FORM = [
    ("precision", '{"claims": []}', "no assertions"),
    ("precision", '{"assertions":[{"t":"A circle.","p":1}]}', "no verdict"),
    ("precision", '{"assertions":[{"v":1,"p":1}]}', "no statement"),
    ("recall", '{"covered":[1,99]}', "unit that does not exist"),
    ("recall", '{"covered":["u1"]}', "unit that does not exist"),
    ("linguistic", '{"clarity":NaN,"fluency":5,"coherency":5}', "no JSON"),
    ("linguistic", '{"clarity":6,"fluency":5,"coherency":5}', "no clarity"),
    ("linguistic", "I am sorry, I cannot judge this.", "no JSON"),
]
"""Kind of call, an answer out of form, the reason that is counted."""


@pytest.fixture
def server() -> Iterator[BadServer]:
    oracle = Oracle([KNOWN.sample])
    with BadServer() as server:
        server.answer = lambda asked: oracle.say(asked.body)
        yield server


def about(asked: Asked, kind: str) -> bool:
    """Whether a call is of this kind and about the victim."""
    said = asked.body["messages"][1]["content"]
    text = said if isinstance(said, str) else said[1]["text"]
    return asked.kind == kind and bool(json.loads(text)["caption"] == GROUP[VICTIM].text)


def judge_once(server: BadServer, folder: Path, timeout: float = 60.0) -> tuple[list[Judgement], LlmJudge]:
    """The group's judgements, through the guard as in training."""

    async def rest(seconds: float) -> None:
        await asyncio.sleep(0)

    serving = Serving(urls=(server.url,), api_key_env=None, in_flight=8, timeout=timeout, retries=1)
    client = Client(MODEL, serving, sleep=rest)
    judge = LlmJudge(world.PARAMS, world.PROMPTS, client, AnswerCache(folder / "answers.sqlite"), PARTS)

    async def whole() -> list[Judgement]:
        try:
            return await Guard(judge, 120.0).judge_group(KNOWN.sample, KNOWN.reference, GROUP)
        finally:
            await judge.close()

    return asyncio.run(whole()), judge


def rewards(judged: list[Judgement]) -> Any:
    return score(judged, GROUP, KNOWN.reference, (), WEIGHTS, set(PARTS) | {"fluency", "coherency"}, OPEN)[0]


def check(server: BadServer, folder: Path, kind: str, reason: str, timeout: float = 60.0) -> None:
    """One unknown reward with its reason; when the endpoint is well again, only that is asked for again."""
    judged, judge = judge_once(server, folder, timeout)
    found = rewards(judged)
    calls = len(server.asked)
    server.rule, server.answer = lambda asked: None, lambda asked: Oracle([KNOWN.sample]).say(asked.body)
    truth = rewards(world.by_rule([(KNOWN, GROUP)], 1)[0])
    assert not np.isnan(truth).any() and truth[:, 0].std() > 0
    expected = truth.copy()
    expected[VICTIM, COLUMN[kind]] = np.nan
    assert np.array_equal(found, expected, equal_nan=True)
    assert judge.failures == {f"{kind}: {reason}": 1}
    again, well = judge_once(server, folder)
    assert np.array_equal(rewards(again), truth) and not well.failures
    assert len(server.asked) == calls + 1


@pytest.mark.parametrize("fault", WIRE)
@pytest.mark.parametrize("kind", ["precision", "recall"])
def test_a_fault_on_the_wire_leaves_one_reward_unknown(
    server: BadServer, tmp_path: Path, kind: str, fault: str
) -> None:
    server.rule = lambda asked: fault if about(asked, kind) else None
    check(server, tmp_path, kind, WIRE[fault], timeout=5.0 if fault == "stall in body" else 60.0)


@pytest.mark.parametrize(("kind", "text", "reason"), FORM)
def test_an_answer_out_of_form_leaves_one_reward_unknown(
    server: BadServer, tmp_path: Path, kind: str, text: str, reason: str
) -> None:
    right = server.answer
    server.answer = lambda asked: text if about(asked, kind) else right(asked)
    check(server, tmp_path, kind, reason)


def test_text_around_the_json_is_no_fault(server: BadServer, tmp_path: Path) -> None:
    right = server.answer
    server.answer = lambda asked: f"Sure! Here it is:\n```json\n{right(asked)}\n```\nAnything else?"
    judged, judge = judge_once(server, tmp_path)
    assert np.array_equal(rewards(judged), rewards(world.by_rule([(KNOWN, GROUP)], 1)[0])) and not judge.failures


def test_what_passes_on_a_second_attempt_is_no_failure(server: BadServer, tmp_path: Path) -> None:
    faults, seen = iter(["429", "500", "reset", "half json"]), set[str]()

    def first_time(asked: Asked) -> str | None:
        if asked.text in seen:
            return None
        seen.add(asked.text)
        return next(faults, None)

    server.rule = first_time
    judged, judge = judge_once(server, tmp_path)
    assert np.array_equal(rewards(judged), rewards(world.by_rule([(KNOWN, GROUP)], 1)[0])) and not judge.failures
    account = judge.account()
    attempts, calls = (sum(n for key, n in account.items() if key.endswith(what)) for what in ("/attempts", "/calls"))
    assert calls == 13 and attempts == 16  # three tried again by the client; one asked again by the judge


@pytest.mark.parametrize("state", ["corrupt", "not to be written"])
def test_a_cache_in_trouble_harms_no_reward(server: BadServer, tmp_path: Path, state: str) -> None:
    if state == "corrupt":
        (tmp_path / "answers.sqlite").write_bytes(b"this is no database" * 500)
    else:
        (tmp_path / "answers.sqlite").mkdir()  # where the file should be, nothing can be written, also by root
    judged, judge = judge_once(server, tmp_path)
    assert np.array_equal(rewards(judged), rewards(world.by_rule([(KNOWN, GROUP)], 1)[0])) and not judge.failures
