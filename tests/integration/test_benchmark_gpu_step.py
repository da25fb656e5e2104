"""``benchmarks/gpu_step.py`` at tiny size: both captioners, ours and stock TRL, every figure it promises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WATCHED = """
import json, sys, weakref
sys.path.insert(0, "benchmarks")
import gpu_step
real, made = gpu_step.captioner, []
def captioner(*asked):
    policy = real(*asked)
    print(json.dumps({"left": sum(model() is not None for model in made)}))
    made.append(weakref.ref(policy.model))
    return policy
gpu_step.captioner = captioner
gpu_step.main()
"""
"""The benchmark, telling at each new captioner how many of the earlier ones are still in memory."""


def test_it_runs_at_tiny_size_and_prints_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "--size", "tiny", "--steps", "2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    *lines, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["left"] for line in lines if "left" in line] == [0, 0, 0, 0], "two of 7B do not fit, nor into a peak"
    lines = [line for line in lines if "left" not in line]
    found = {line["benchmark"]: line for line in lines}
    parts = ("step", "tokens", "mfu", "generate", "logprobs", "judge", "update", "rest")
    for name in ("llava-1.5-7b", "qwen2.5-vl-7b"):
        figures = {part: found[f"gpu_step/{name} (tiny): {part}"] for part in parts}
        assert all(one["interval"][0] <= one["ratio"] <= one["interval"][1] for one in figures.values())
        shares = [figures[part]["ours"] for part in parts[3:]]
        assert figures["step"]["ours"] > 0 and all(share >= 0 for share in shares[:-1])
        assert 0.5 * figures["step"]["ours"] < sum(shares) < 1.5 * figures["step"]["ours"]
        assert 0 < figures["mfu"]["ratio"] < 1
        assert figures["tokens"]["ours"] > 0 and figures["tokens"]["against"] > 0
    for seen in last["seen"]:
        assert seen["size"] == "tiny" and 0 < seen["trained"] < seen["parameters"] < 1e6
        assert seen["trained_tokens_per_second"] > 0 and seen["peak_gb"]["ours"] > 0
