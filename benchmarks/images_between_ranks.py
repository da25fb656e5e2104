"""What two ranks send each other of their pictures: bytes and seconds per generation, ours against stock TRL.

    python benchmarks/images_between_ranks.py [--pairs 6]

Two processes on this machine (gloo), pictures of 1024 x 768, four captions each. Stock TRL has a data set whose column
`image` is decoded by `datasets`, and its own defaults; it pickles prompts, pictures inside, and pictures to every rank.
Everything that goes through torch's gathering of objects is counted, in each process, while one phase runs.

bytes    pickled per generation and rank, ours / stock; goal <= 0.001
seconds  pickling, sending and unpickling it, ours / stock; goal <= 0.1
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _trainers import SlowJudge, Turns, captioner, instant, median_interval, ours, pictures, prepared, settings, stock
from datasets import Dataset, Image
from torch.distributed import distributed_c10d

from balcap.params.runtime import Launch
from balcap.policy.generate import chat_prompt
from balcap.training.judging import Judging
from balcap.training.ranks import join

GOALS = {"bytes": 0.001, "seconds": 0.1}
RANKS = 2
LIMIT_SECONDS = 1800.0
WARM_UP = 1


def main() -> None:
    """Start the ranks, print one line per goal and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 768), help="width and height of the pictures")
    parser.add_argument("--folder", type=Path, help="of a rank; for the benchmark itself")
    options = parser.parse_args()
    if options.folder:
        return rank(options.folder, options.pairs, tuple(options.size))
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        found = start(Path(folder), options.pairs, options.size)
    rows = [row(name, np.array(found[name]["ours"]), np.array(found[name]["stock"])) for name in GOALS]
    for line in rows:
        print(json.dumps(line))
    print(json.dumps({"benchmark": "images_between_ranks", "holds": all(line["holds"] for line in rows)}))


def row(name: str, mine: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """One goal: the median over pairs of phases, of the first rank."""
    ratio, interval = median_interval(mine / theirs)
    return {
        "benchmark": f"images_between_ranks/{name}",
        "ratio": round(ratio, 6),
        "interval": interval,
        "ours": round(float(np.median(mine)), 4),
        "against": round(float(np.median(theirs)), 4),
        "goal": f"<= {GOALS[name]}",
        "holds": ratio <= GOALS[name],
    }


def start(folder: Path, pairs: int, size: tuple[int, int]) -> dict[str, dict[str, list[float]]]:
    """Run the ranks on a model in ``folder``; returns what the first one counted."""
    captioner(folder / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(RANKS)}
    command = [sys.executable, __file__, "--pairs", str(pairs), "--size", *map(str, size), "--folder", str(folder)]
    started = [
        subprocess.Popen(command, env={**os.environ, **meeting, "RANK": str(n), "LOCAL_RANK": str(n)}, stdout=2)
        for n in range(RANKS)
    ]
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        if any(process.wait(deadline - time.monotonic()) for process in started):
            sys.exit("error: a rank failed; what it said stands above")
    finally:
        for process in started:
            process.kill()
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


def rank(folder: Path, pairs: int, size: tuple[int, int]) -> None:
    """One process: both trainers in turn, counted."""
    launch = Launch(nodes=1, processes=RANKS, deepspeed="none", offload="none", collective_timeout=LIMIT_SECONDS)
    join(launch)
    total = WARM_UP + pairs
    params = settings(steps=total + 1, global_batch_size=32, group_size=4, micro_batch_size=8, judge_deadline=600.0)
    shown, judging = pictures(8, *size), Judging(SlowJudge(), params)
    left, right = Turns(params.updates_per_step), Turns(params.updates_per_step)
    a = ours(params, folder / "base", shown, judging, folder / "work", left, launch)
    prompt = chat_prompt(prepared(params, folder / "base"))
    files = [{"bytes": p.sample.image, "path": None} for p in shown] * (total + 1)
    rows = Dataset.from_dict({"prompt": [prompt] * len(files), "image": files}).cast_column("image", Image())
    functions = list(instant(judging.names))
    b = stock(params, folder / "base", rows, functions, a.args, right, log_multimodal=True)
    left.start(a)
    right.start(b)
    count = Count()
    found: dict[str, dict[str, list[float]]] = {name: {"ours": [], "stock": []} for name in GOALS}
    for number in range(total):
        for name, side in (("ours", left), ("stock", right)):
            count.bytes, count.seconds = 0, 0.0
            side.phase()
            if number >= WARM_UP:
                found["bytes"][name].append(count.bytes)
                found["seconds"][name].append(count.seconds)
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.barrier()
    os._exit(0)  # the trainers' threads stand in the middle of their runs


class Count:
    """Bytes that this process pickles for others, and the seconds that gathering them takes."""

    def __init__(self) -> None:
        self.bytes, self.seconds = 0, 0.0
        pickled, gathered = distributed_c10d._object_to_tensor, torch.distributed.all_gather_object

        def to_tensor(*args: Any, **kwargs: Any) -> Any:
            found = pickled(*args, **kwargs)
            self.bytes += int(found[1])
            return found

        def gather(*args: Any, **kwargs: Any) -> None:
            torch.distributed.barrier()  # so that waiting for the other rank is not counted
            start = time.perf_counter()
            gathered(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        distributed_c10d._object_to_tensor = to_tensor
        torch.distributed.all_gather_object = gather


if __name__ == "__main__":
    main()
