"""Call A against a real vLLM: a picture goes in, an answer bound to the schema comes out, the prefix cache serves.

The model is a Qwen2.5-VL with random weights, exported as a trained captioner is: every part of the path is real, what
it says is noise.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest
from captions import both
from runtime_world import runtime
from serve_world import ROOT, Served

from balcap.calibration.asking import judge_at
from balcap.calibration.labelled import photos_set
from balcap.collect.file import FileWriter
from balcap.collect.llm import FOLDER, UNITS, make_writer
from balcap.judge import prompts
from balcap.judge.answers import parse, schema
from balcap.llm.asking import Shown
from balcap.llm.client import Call, Client
from balcap.llm.prompts import load_prompt
from balcap.params.collect import LlmWriter
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
    prompt, bound = prompts.load_prompt("precision"), schema("precision")
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


def test_it_captions_as_in_transformers(qwen_folder: Path, qwen: Served) -> None:
    served, ours = both(qwen_folder, qwen, (224, 168))
    assert served == ours and all(ours)


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


def test_a_writer_gets_captions_or_reasons(qwen: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the record's own words, which no system part goes before; the list of units is bound to its schema."""
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path))
    words = load_prompt("split", FOLDER)
    params = LlmWriter.model_validate(
        {
            "name": "llm",
            "model": "tiny-qwen-vl",
            "model_revision": qwen.url,
            "instruction": {"name": "record"},
            "max_tokens": 60,
            "temperature": 1.0,
            "seed": 3,
            "splitter": {"name": "llm", "prompt": words.sha256, "max_tokens": 40},
        }
    )
    cases = {case.picture.sample.image_id: case.picture.sample for case in (CASE, OTHER)}
    told = FileWriter(tmp_path, {image_id: ["Describe this picture."] for image_id in cases}, [], {})
    writer = make_writer(params, runtime(serving={"tiny-qwen-vl": serving(qwen.url).model_dump()}), told)
    results = list(writer(cases.values()))
    costs = writer.account()
    assert costs["writer/caption/calls"] >= len(results) == 2 and costs["writer/caption/prompt_tokens"] > 2 * 50
    for result in results:  # a random model rarely comes to an end
        assert isinstance(result, list) or str(result) in REASONS
    split = Call("split", [{"role": "user", "content": words.render(caption="A cat.")}], UNITS.schema, 40, "x")
    assert "".join(bound_by(qwen, split).split()).startswith('{"units":[')


REASONS = [f"{kind}: {why}" for kind in ("caption", "split") for why in ("cut off", "empty", "no text", "no words")]


def bound_by(qwen: Served, call: Call) -> str:
    """What the model says to a call, cut off or not."""
    body = {"model": "tiny-qwen-vl", "messages": call.messages, "max_tokens": call.max_tokens}
    form = {"type": "json_schema", "json_schema": {"name": call.kind, "schema": call.schema, "strict": True}}
    request = urllib.request.Request(
        f"{qwen.url}/chat/completions",
        json.dumps(body | {"response_format": form}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])
