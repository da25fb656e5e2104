"""Speed and memory of `prepare` on JPEG files: against bare Pillow, over the number of processes and of pictures.

    python benchmarks/prepare.py [--images 20000]

The files are distinct random crops of the example photographs, stored as `recipes/photos.yaml` says. Bare Pillow opens,
decodes, resizes and encodes the same files and keeps nothing; `prepare` also identifies, hashes, sorts and writes them,
and resizes in two steps where that saves time (`balcap.images.resize`).

throughput   images per CPU second and core, ours / bare, one process, blocks of files in turn; goal >= 0.8
cores        images per CPU second of the busiest process, two workers / none, a quarter of the files in turn: what the
             wall clock shows where the cores are free; goal >= 1.5
memory       peak resident memory of all processes, all files / a twentieth of them; goal <= 1.1
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from PIL import Image

from balcap.params import load_params
from balcap.params.prepare import Prepare
from balcap.sources.ingest import prepare

ROOT = Path(__file__).parents[1]
BLOCKS = 10
WORKERS = 2
PARTS = {"all": 1, "quarter": 4, "few": 20}
"""Folders with every n-th file."""
REPEATS = 2


def main() -> None:
    """Make the files, measure, print one line per goal and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--peak", metavar="FOLDER", help="only prepare this folder and print the peak in MB")
    options = parser.parse_args()
    if options.peak:
        print(peak(options.peak))
        return
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        os.chdir(folder)
        make_files(max(options.images, 200))
        lines = [throughput(), cores(), memory()]
    for line in lines:
        print(json.dumps(line))
    print(json.dumps({"benchmark": "prepare", "holds": all(line["holds"] for line in lines)}))


def make_files(count: int) -> None:
    """``count`` different crops, 60 to 100 % of each side, in ``block-0`` and so on, and linked into ``PARTS``."""
    photos = [Image.open(path).convert("RGB") for path in sorted((ROOT / "data/examples/photos/images").glob("*.jpg"))]
    for folder in (*PARTS, *(f"block-{i}" for i in range(BLOCKS))):
        Path(folder).mkdir()
    rng = Random(0)
    seen: set[tuple[int, ...]] = set()
    while (n := len(seen)) < count:
        which = rng.randrange(len(photos))
        photo = photos[which]
        width, height = (int(side * rng.uniform(0.6, 1.0)) for side in photo.size)
        left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
        crop = (which, left, top, width, height)
        if crop in seen:
            continue
        seen.add(crop)
        path = Path(f"block-{n % BLOCKS}/{n:06}.jpg")
        photo.crop((left, top, left + width, top + height)).save(path, quality=90)
        for folder in (name for name, every in PARTS.items() if n % every == 0):
            os.link(path, f"{folder}/{path.name}")


def params(folder: str) -> Prepare:
    """Section `prepare` of the photo recipe, for another folder."""
    section = load_params(ROOT / "recipes/photos.yaml").prepare.model_dump()
    source = {"name": "folder", "license": "CC0-1.0", "attribution": None}
    return Prepare.model_validate(section | {"path": folder, "source": source})


def ours(folder: str, workers: int) -> None:
    """`prepare` as the stage runs it, without its progress lines."""
    out = Path("out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    stdout, sys.stdout = sys.stdout, io.StringIO()
    try:
        prepare(
            params(folder), workers, out / "work", out / "images", out / "manifest.parquet", out / "rejects.parquet"
        )
    finally:
        sys.stdout = stdout


def bare(folder: str) -> None:
    """The same with Pillow alone."""
    images = params(folder).images
    for path in sorted(Path(folder).iterdir()):
        with Image.open(path) as image:
            scale = min(1.0, images.size / max(image.size))
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            small = image.resize(size, Image.Resampling.LANCZOS)
        small.save(io.BytesIO(), "JPEG", quality=images.quality)


Run = Callable[[str], None]
Line = dict[str, object]


def cpu(run: Run, folder: str) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    run(folder)
    return time.process_time() - start


def busiest(run: Run, folder: str) -> float:
    """CPU seconds of this process or of one of its equally busy workers, whichever had more to do."""

    def usage() -> tuple[float, float]:
        own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime, workers.ru_utime + workers.ru_stime

    before = usage()
    run(folder)
    own, workers = (now - then for now, then in zip(usage(), before, strict=True))
    return max(own, workers / WORKERS)


def compare(name: str, measure: Callable[[Run, str], float], a: Run, b: Run, folders: list[str], goal: float) -> Line:
    """Rate of ``a`` over that of ``b`` on each folder, the order changing; the interval is that of the folders."""
    for run in (a, b):
        run("few")
    pairs = []
    for i, folder in enumerate(folders):
        taken = {run: measure(run, folder) for run in ((a, b) if i % 2 else (b, a))}
        pairs.append((taken[a], taken[b]))
    count = sum(len(os.listdir(folder)) for folder in folders)
    mine, theirs = (count / sum(column) for column in zip(*pairs, strict=True))
    ratios = [against / ours for ours, against in pairs]
    return line(name, mine / theirs, ratios, mine, theirs, goal, mine / theirs >= goal)


def line(name: str, ratio: float, ratios: list[float], mine: float, against: float, goal: float, holds: bool) -> Line:
    """One goal's line."""
    return {
        "benchmark": f"prepare/{name}",
        "ratio": round(ratio, 3),
        "interval": [round(min(ratios), 3), round(max(ratios), 3)],
        "ours": round(mine, 1),
        "against": round(against, 1),
        "goal": goal,
        "holds": holds,
    }


def throughput() -> Line:
    """Images per CPU second, one process."""
    blocks = [f"block-{i}" for i in range(BLOCKS)]
    return compare("throughput", cpu, partial(ours, workers=1), bare, blocks, 0.8)


def cores() -> Line:
    """Images per second of the busiest process, two workers against none."""
    several, one = partial(ours, workers=WORKERS), partial(ours, workers=1)
    return compare("cores", busiest, several, one, ["quarter"] * 2 * REPEATS, 1.5)


def memory() -> Line:
    """Peak of all files against that of a few, in MB."""
    command = [sys.executable, __file__, "--peak"]
    peaks = [
        [
            float(subprocess.run([*command, folder], capture_output=True, text=True, check=True).stdout)
            for folder in pair
        ]
        for pair in [("all", "few")] * REPEATS
    ]
    ratios = [many / few for many, few in peaks]
    ratio = max(ratios)
    many, few = (max(column) for column in zip(*peaks, strict=True))
    return line("memory", ratio, ratios, many, few, 1.1, ratio <= 1.1)


def peak(folder: str) -> float:
    """Peak resident memory in MB of this process and as many of its largest worker as there are."""
    ours(folder, WORKERS)
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(own + WORKERS * worker, 1)


if __name__ == "__main__":
    main()
