"""Call A against a real vLLM: a picture goes in, an answer bound to the schema comes out, the prefix cache serves.

The model is a Qwen2.5-VL with random weights: every part of the path is real, what it says is noise.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from serve_world import ROOT, Served

from balcap.calibration.asking import judge_at
from balcap.calibration.labelled import photos_set
from balcap.judge.answers import parse, schema
from balcap.judge.prompts import load_prompt
from balcap.llm.asking import Shown
from balcap.llm.client import Call, Client
from balcap.params.runtime import Serving
from balcap.records import Assertion, Caption, Judgement

pytestmark = pytest.mark.vllm
BLOCK = 128
"""Tokens of a cache block on CPU."""
CASE, OTHER = photos_set(ROOT / "data/examples/photos", 2)
WORDS = ("cat", "dog", "horse", "bird", "fish", "tree", "house", "car")
CAPTIONS = [Caption(f"It shows a {word}.") for word in WORDS]


def serving(url: str) -> Serving:
    return Serving(urls=(url,), api_key_env=None, in_flight=16, timeout=120.0, retries=0)


def test_a_picture_is_read_and_the_answer_has_the_form_of_the_schema(qwen: Served) -> None:
    prompt, bound = load_prompt("precision"), schema("precision")
    bound["properties"]["assertions"] |= {"minItems": 2, "maxItems": 2}
    bound["properties"]["assertions"]["items"]["properties"]["t"]["maxLength"] = 20
    text = {"type": "text", "text": prompt.render(caption="It shows a cat.")}

    def messages(*parts: dict[str, object]) -> list[dict[str, object]]:
        return [{"role": "system", "content": prompt.system}, {"role": "user", "content": [*parts, text]}]

    async def asked() -> tuple[str, int]:
        client = Client("tiny-qwen-vl", serving(qwen.url))
        seen = {"type": "image_url", "image_url": {"url": Shown(CASE.picture.sample).data_url}}
        with_it = await client.chat(Call("precision", messages(seen), bound, 120, "x"))
        without = await client.chat(Call("precision", messages(), bound, 120, "x"))
        assert await client.healthy() == {qwen.url: True}
        await client.close()
        return with_it.text, with_it.prompt_tokens - without.prompt_tokens

    said, tokens = asyncio.run(asked())
    assertions = parse("precision", said)
    assert len(assertions) == 2 and all(isinstance(one, Assertion) for one in assertions)
    assert " " not in said.split('"t"')[0]  # no white space that nobody reads
    assert tokens > 50  # one for 28 x 28 pixels each, and the two around them


def test_a_group_of_captions_shares_what_stands_before_them(qwen: Served, tmp_path: Path) -> None:
    judge = judge_at(qwen.url, ("assertions",), tmp_path)
    hits = qwen.counter("vllm:prefix_cache_hits_total")

    async def judging() -> list[Judgement]:
        try:
            return await judge.judge_group(OTHER.picture.sample, OTHER.picture.reference, CAPTIONS)
        finally:
            await judge.close()

    judged, account = asyncio.run(judging()), judge.account()
    unknown = sum(judgement.assertions is None for judgement in judged)
    assert unknown == sum(judge.failures.values())  # a random model may never come to an end
    calls = account["judge/precision/calls"]
    assert calls == account["judge/precision/attempts"] >= len(CAPTIONS)
    prompt = account["judge/precision/prompt_tokens"] / calls
    shared = (prompt // BLOCK - 1) * BLOCK  # the caption and what follows it are less than a block
    assert account["judge/precision/cached_tokens"] >= (len(CAPTIONS) - 1) * shared > 0
    assert qwen.counter("vllm:prefix_cache_hits_total") - hits == account["judge/precision/cached_tokens"]
