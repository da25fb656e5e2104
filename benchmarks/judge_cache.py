"""The cache of answers under the judge: is anything asked twice, and how fast are answers that are there already?

    python benchmarks/judge_cache.py [--groups 500]

A stream of groups of eight captions of drawn scenes, of which 30 % repeat an earlier caption of the same picture: half
of them inside their group, half from an earlier visit. Three calls per caption (statements, units, marks) go through
the judge, its client and its cache to `balcap serve oracle` in a process of its own, which counts what it is asked.
Cold, two processes judge the stream at once over one file, one of them backwards; warm, a new process judges it again.

cold       calls that reach the endpoint / different questions in the stream; goal exactly 1
warm       the same for cold and warm together: a warm pass issues none; goal exactly 1
lookups    questions to the cache's file in a warm pass / groups; goal <= 1
rate       judgements per second of a warm pass / 5,000; goal >= 1

The interval of the rate is that of five warm passes, which stand in the last line one by one.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from balcap.hashing import image_id
from balcap.judge.llm import REVISION, LlmJudge
from balcap.judge.prompts import load_prompt
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.params.judge import Calls, Prompts
from balcap.params.judge import LlmJudge as LlmParams
from balcap.params.runtime import Serving
from balcap.records import Caption, Reference, Sample
from balcap.scenes import draw_scene, noisy_caption, render, split_units, teacher_caption
from balcap.serve.oracle import MODEL, Oracle, make_app

GROUP, REPEATED, VISITS, PASSES = 8, 0.3, 2, 5
RATE = 5000.0
KINDS = ("precision", "recall", "linguistic", "answer")
LIMIT_SECONDS = 900.0
Group = tuple[Sample, Reference, list[Caption]]
Found = dict[str, Any]


def main() -> None:
    """Measure, print one line per goal and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=500)
    parser.add_argument("--serve", action="store_true", help="only be the endpoint")
    parser.add_argument("--judge", nargs=3, metavar=("URL", "FILE", "PASSES"), help="only judge; no passes: backwards")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.groups))
    elif options.judge:
        url, file, passes = options.judge
        print(json.dumps(asyncio.run(judge_stream(url, Path(file), options.groups, int(passes)))))
    else:
        compare(options.groups)


def compare(groups: int) -> None:
    """Cold by two processes, warm by a third, and the lines of both."""
    needed = len(different(groups))
    with tempfile.TemporaryDirectory() as folder, server(groups) as (url, issued):
        file = f"{folder}/answers.sqlite"
        two = [begin("--judge", url, file, passes, "--groups", str(groups)) for passes in ("1", "0")]
        cold_seconds = [ended(process)["seconds"][0] for process in two]
        cold = issued()
        warm = ended(begin("--judge", url, file, str(PASSES), "--groups", str(groups)))
        both = issued()
    rates = [groups * GROUP / seconds for seconds in warm["seconds"]]
    middle = sorted(rates)[PASSES // 2]
    lines = [
        line("cold", cold, needed, "== 1", cold == needed),
        line("warm", both, needed, "== 1", both == needed),
        line("lookups", warm["lookups"], PASSES * groups, "<= 1", warm["lookups"] <= PASSES * groups),
        line("rate", middle, RATE, ">= 1", middle >= RATE, [rate / RATE for rate in rates]),
    ]
    for found in lines:
        print(json.dumps(found))
    facts = {"cold_seconds": cold_seconds, "warm_rates": [round(rate) for rate in rates], "repeated": repeated(groups)}
    print(json.dumps({"benchmark": "judge_cache", **facts, "holds": all(found["holds"] for found in lines)}))


def line(name: str, ours: float, against: float, goal: str, holds: bool, ratios: list[float] | None = None) -> Found:
    """One goal's line; what is counted has no spread."""
    spread = ratios or [ours / against]
    return {
        "benchmark": f"judge_cache/{name}",
        "ratio": round(ours / against, 4),
        "interval": [round(min(spread), 4), round(max(spread), 4)],
        "ours": round(ours, 3),
        "against": round(against, 3),
        "goal": goal,
        "holds": holds,
    }


def pictures(groups: int) -> list[tuple[Sample, Reference]]:
    """The pictures of the stream; each is visited twice."""
    return [picture(index) for index in range(-(-groups // VISITS))]


def picture(index: int) -> tuple[Sample, Reference]:
    """A drawn scene as it is stored, and its reference."""
    scene = draw_scene(seed=5, index=index, min_objects=1, max_objects=3)
    pixels, buffer = render(scene), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    name, text = image_id(pixels.shape[1], pixels.shape[0], pixels.tobytes()), teacher_caption(scene, seed=index)
    sample = Sample(name, buffer.getvalue(), "train", "scenes", "CC0-1.0", {"scene": scene.to_json()})
    return sample, Reference(name, text, split_units(text), "scenes", "")


def stream(groups: int) -> Iterator[Group]:
    """The groups in order; a repeated caption is one of its picture's earlier ones."""
    rng, known = random.Random(0), pictures(groups)
    said: list[list[Caption]] = [[] for _ in known]
    for n in range(groups):
        earlier = said[n % len(known)]
        captions: list[Caption] = []
        for _ in range(GROUP):
            old = captions if rng.random() < 0.5 and captions else earlier or captions
            captions.append(rng.choice(old) if old and rng.random() < REPEATED else fresh(n % len(known), rng))
        earlier += captions
        yield (*known[n % len(known)], captions)


def fresh(index: int, rng: random.Random) -> Caption:
    """A caption that nobody has given before."""
    scene = draw_scene(seed=5, index=index, min_objects=1, max_objects=3)
    number = rng.getrandbits(48)
    return Caption(f"{noisy_caption(scene, number)} It is picture {number}.")


def different(groups: int) -> set[tuple[str, ...]]:
    """The different questions of the stream: what each kind of call depends on, besides the model."""
    found: set[tuple[str, ...]] = set()
    for sample, reference, captions in stream(groups):
        for caption in captions:
            found |= {
                ("precision", sample.image_id, caption.text),
                ("recall", *reference.units, caption.text),
                ("linguistic", caption.text),
            }
    return found


def repeated(groups: int) -> float:
    """Share of the captions that were there before."""
    return round(1 - len({(s.image_id, c.text) for s, _, found in stream(groups) for c in found}) / (groups * GROUP), 3)


async def judge_stream(url: str, file: Path, groups: int, passes: int) -> Found:
    """Judge the stream ``passes`` times (0: once, backwards), all groups of a pass in one gather as training does."""
    judge = make_judge(url, file)
    asked = counted(judge.asking.cache)
    todo = list(stream(groups))[:: 1 if passes else -1]
    seconds = []
    for _ in range(max(passes, 1)):
        start = time.perf_counter()
        await asyncio.gather(*(judge.judge_group(sample, reference, said) for sample, reference, said in todo))
        seconds.append(time.perf_counter() - start)
    await judge.close()
    if judge.failures:
        sys.exit(f"error: the judge failed: {judge.failures}")
    return {"seconds": seconds, "lookups": len(asked)}


def make_judge(url: str, file: Path) -> LlmJudge:
    """The judge of recipe `embedded-llm-judge`, over a cache in ``file``."""
    prompts = {kind: load_prompt(kind) for kind in KINDS}
    params = LlmParams(
        name="llm",
        revision=REVISION,
        max_failure_rate=0.0,
        model=MODEL,
        model_revision="truth-1",
        sees_picture=True,
        rounds=1,
        prompts=Prompts(**{kind: prompt.sha256 for kind, prompt in prompts.items()}),
        max_tokens=Calls(precision=4000, recall=400, linguistic=50, answer=20),
    )
    client = Client(MODEL, Serving(urls=(url,), api_key_env=None, in_flight=64, timeout=LIMIT_SECONDS, retries=3))
    return LlmJudge(params, prompts, client, AnswerCache(file), ("assertions", "covered", "clarity"))


def counted(cache: AnswerCache) -> list[int]:
    """Keys per look into the cache's file, as they come."""
    looks: list[int] = []
    lookup = cache._file.lookup

    def counting(keys: Any) -> dict[str, str]:
        looks.append(len(keys))
        return lookup(keys)

    cache._file.lookup = counting  # type: ignore[method-assign]
    return looks


def begin(*options: str) -> subprocess.Popen[str]:
    """This program with other options, as a process of its own."""
    return subprocess.Popen([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> Found:
    """What it found."""
    said, _ = process.communicate(timeout=LIMIT_SECONDS)
    if process.returncode:
        sys.exit(f"error: a judging process ended with exit status {process.returncode}")
    return dict(json.loads(said))


@contextmanager
def server(groups: int) -> Iterator[tuple[str, Any]]:
    """Address of the endpoint, and a function that tells how many calls it has answered."""
    process = begin("--serve", "--groups", str(groups))
    assert process.stdout is not None
    try:
        root = f"http://127.0.0.1:{int(process.stdout.readline())}"
        yield f"{root}/v1", lambda: asyncio.run(asked(f"{root}/asked"))
    finally:
        process.terminate()
        process.wait(LIMIT_SECONDS)


async def asked(url: str) -> int:
    """The endpoint's count."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        return int(await reply.text())


async def serve(groups: int) -> None:
    """`balcap serve oracle` for the stream's pictures, with a count of its calls at /asked; prints the port first."""
    calls = 0

    @web.middleware
    async def counting(request: web.Request, handler: Any) -> web.StreamResponse:
        nonlocal calls
        calls += request.path.endswith("/chat/completions")
        return await handler(request)

    async def tell(_: web.Request) -> web.Response:
        return web.Response(text=str(calls))

    app = make_app(Oracle([sample for sample, _ in pictures(groups)]))
    app.middlewares.append(counting)
    app.router.add_get("/asked", tell)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
