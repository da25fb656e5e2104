"""What a judge's call costs in tokens, in a real vLLM: how much of a prompt is computed, and how much is written.

    make vllm smollm2 && python benchmarks/judge_prefix.py [--pictures 24]

Starts vLLM twice. First with a Qwen2.5-VL of miniature size with random weights (`tools/tiny_qwen_vl.py`), for how much
is read does not depend on what a model knows: the example photographs, each with a group of eight captions sent
together, as the judge asks them. The prefix cache is emptied before each group, so that nothing comes from another
picture. Then with SmolLM2, whose words are real, for the two calls that need no eyes (units, marks): captions of the
same pictures, judged as the judge asks, and once more with the same instructions, but an explanation in the model's own
words for an answer (up to 512 tokens). Its lists of statements are no measure: it fills them to their bound.

share      tokens of the group's prompts from the cache / (G - 1)/G of the whole cache blocks of what all its prompts
           begin with; goal >= 0.95. The size of a block stands in the row
order      tokens computed per caption, with the picture before the caption (ours) / with the caption before the
           picture; stated, no goal
answer     tokens written per caption in the two calls, terse (ours) / in the model's own words; stated, no goal

Intervals are bootstraps over pictures. The last line has the tokens written per kind of call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from balcap.calibration.asking import judge_at
from balcap.calibration.labelled import Case, photos_set
from balcap.llm.client import Answer, Call, CallFailed, Client
from balcap.params.runtime import Serving
from balcap.progress import Progress
from balcap.records import MARKS, Caption
from balcap.serve.vllm import ServeError, Setup, served
from balcap.workspace import work_root

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "data/examples/photos"
GROUP, WORDED = 8, 2
"""Captions per picture, for the prompts and for the answers."""
PORT, LENGTH = 8739, 8192
FREE_TOKENS = 512
START_SECONDS = 900.0
TERSE = re.compile(r"Answer with one JSON object and nothing else:.*", re.S)
FREE = "Explain your judgement in your own words."
JSON = {"Content-Type": "application/json"}
Line = dict[str, Any]


class Notes(Client):
    """Writes down what the judge asks, and answers nothing."""

    def __init__(self, asked: Client) -> None:
        super().__init__(asked.model, asked.serving)
        self.calls: list[Call] = []

    async def chat(self, call: Call) -> Answer:
        self.calls.append(call)
        raise CallFailed("written down")


def main() -> None:
    """Measure, print one line per row and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=24)
    cases = photos_set(PHOTOS, parser.parse_args().pictures)
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"  # allows to empty the cache
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        tiny, real = Path(folder, "tiny-qwen-vl"), work_root() / "models/SmolLM2-135M-Instruct"
        for model, tool in ((tiny, "tiny_qwen_vl"), (real, "smollm2")):
            subprocess.run([sys.executable, ROOT / f"tools/{tool}.py", model], check=True, stderr=subprocess.DEVNULL)
        with server(tiny, folder) as url:
            lines = prompts(url, cases)
        with server(real, folder) as url:
            answer, kinds = answers(url, cases[::2])
    for found in (*lines, answer):
        print(json.dumps(found))
    holds = all(found["holds"] for found in lines)
    print(json.dumps({"benchmark": "judge_prefix", "written per caption": kinds, "holds": holds}))


@contextmanager
def server(model: Path, folder: str) -> Iterator[str]:
    """vLLM with ``model``; ends with what to do when it cannot be had."""
    setup = Setup(model, model.name, PORT, LENGTH)
    try:
        with served(setup, log=Path(folder, "vllm.log"), deadline=START_SECONDS, say=print):
            yield setup.url
    except ServeError as error:
        sys.exit(f"error: {error}")


def prompts(url: str, cases: Sequence[Case]) -> list[Line]:
    """Rows about what is read: share and order."""
    progress = Progress("prompts", len(cases), "pictures")
    block = block_size(url)
    rows = []
    for case in cases:
        ours = asked(url, case, captions(case, GROUP), ("assertions",))
        whole = common(*(token_ids(url, call) for call in ours[:2])) // block * block
        read, cached = computed(url, ours)
        theirs, _ = computed(url, [replace(call, messages=swapped(call.messages)) for call in ours])
        rows.append((cached, whole * (GROUP - 1), read, theirs))
        progress.advance()
    cached, shareable, ours_read, theirs_read = np.array(rows, dtype=float).T / GROUP
    name = f"share ({block}-token blocks, groups of {GROUP})"
    return [line(name, cached, shareable, 0.95), line("order", ours_read, theirs_read)]


def answers(url: str, cases: Sequence[Case]) -> tuple[Line, dict[str, Any]]:
    """The row about what is written, and its parts."""
    progress = Progress("answers", len(cases), "pictures")
    rows: list[dict[str, list[float]]] = []
    for case in cases:
        ours = asked(url, case, captions(case, WORDED), ("covered", *MARKS))
        free = [replace(c, messages=worded(c.messages), schema=None, max_tokens=FREE_TOKENS) for c in ours]
        written = [spent(url, calls) for calls in (ours, free)]
        rows.append({kind: [side[kind]["completion_tokens"] / WORDED for side in written] for kind in written[0]})
        progress.advance()
    kinds = {kind: [round(float(np.mean([row[kind][i] for row in rows])), 1) for i in (0, 1)] for kind in rows[0]}
    ours_sum, free_sum = (np.array([sum(pair[i] for pair in row.values()) for row in rows]) for i in (0, 1))
    return line("answer", ours_sum, free_sum), kinds


def captions(case: Case, count: int) -> list[Caption]:
    """Real ones: the reference's sentences in ``count`` orders, two left out."""
    sentences = re.findall(r"[^.!?]+[.!?]+", case.picture.reference.caption)
    drawn = [Random(i).sample(sentences, max(1, len(sentences) - 2)) for i in range(count)]
    return [Caption(f"{i + 1}. {''.join(some).strip()}") for i, some in enumerate(drawn)]


def asked(url: str, case: Case, group: list[Caption], parts: Collection[str]) -> list[Call]:
    """The calls that the judge makes for a group, as it makes them."""
    with tempfile.TemporaryDirectory() as folder:
        judge = judge_at(url, parts, Path(folder))
        judge.asking.client = notes = Notes(judge.asking.client)
        asyncio.run(judge.judge_group(case.picture.sample, case.picture.reference, group))
        judge.asking.cache.close()
    return notes.calls


def computed(url: str, calls: list[Call]) -> tuple[float, float]:
    """Tokens computed, and tokens from the cache, of calls sent together to an empty cache; they write one token."""
    urllib.request.urlopen(urllib.request.Request(f"{url[:-3]}/reset_prefix_cache", method="POST"), timeout=60).close()
    (found,) = spent(url, [replace(call, max_tokens=1, schema=None) for call in calls]).values()
    return found["prompt_tokens"] - found["cached_tokens"], found["cached_tokens"]


def spent(url: str, calls: list[Call]) -> dict[str, dict[str, int]]:
    """Account of calls sent together; a call that reaches its limit counts like any other."""
    serving = Serving(urls=(url,), api_key_env=None, in_flight=len(calls), timeout=300.0, retries=0)

    async def all_of_them() -> dict[str, dict[str, int]]:
        client = Client(served_name(url), serving)
        ended = await asyncio.gather(*map(client.chat, calls), return_exceptions=True)
        await client.close()
        if wrong := [one for one in ended if isinstance(one, BaseException) and str(one) != "cut off"]:
            sys.exit(f"error: a call failed: {wrong[0]}")
        return client.account()

    return asyncio.run(all_of_them())


def swapped(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The caption before the picture."""
    *fixed, user = messages
    return [*fixed, user | {"content": user["content"][::-1]}]


def worded(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same instructions, without a form for the answer."""
    system, user = messages
    return [system | {"content": TERSE.sub(FREE, system["content"])}, user]


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def token_ids(url: str, call: Call) -> list[int]:
    """The whole prompt, a picture's tokens included."""
    body = {"model": served_name(url), "messages": call.messages, "max_tokens": 1, "return_token_ids": True}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), JSON)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return list(json.load(answer)["prompt_token_ids"])


def served_name(url: str) -> str:
    """The model's name."""
    with urllib.request.urlopen(f"{url}/models", timeout=60) as answer:
        return str(json.load(answer)["data"][0]["id"])


def block_size(url: str) -> int:
    """Tokens of a block of the cache."""
    with urllib.request.urlopen(f"{url[:-3]}/metrics", timeout=60) as answer:
        return int(re.findall(r'cache_config_info\{.*?,block_size="(\d+)"', answer.read().decode())[0])


def line(name: str, ours: np.ndarray, against: np.ndarray, goal: float | None = None) -> Line:
    """One row: ratio of the sums over pictures."""
    draws = np.random.default_rng(0).integers(0, len(ours), (10_000, len(ours)))
    low, high = np.quantile(ours[draws].sum(axis=1) / against[draws].sum(axis=1), [0.025, 0.975])
    ratio = float(ours.sum() / against.sum())
    return {
        "benchmark": f"judge_prefix/{name}",
        "ratio": round(ratio, 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
        "ours": round(float(ours.mean()), 1),
        "against": round(float(against.mean()), 1),
        "goal": f">= {goal}" if goal else "stated",
        "holds": goal is None or ratio >= goal,
    }


if __name__ == "__main__":
    main()
