"""Measures the memory of a real training run in its own process: a captioner with random weights, our trainer, AdamW.

    python tests/plan_world.py PARAMETERS.yaml      # one JSON object: baseline, states, peak (bytes)

Resident memory is an honest measure only if what is freed is given back: glibc is told to do so for every block of
64 KiB and more. ``states`` is read after AdamW's step while weights, gradients and both moments live, ``peak`` is the
kernel's high-water mark of the whole run. All captions run to their greatest length, which is what a plan is made for.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def measured(params: Path) -> dict[str, float]:
    """Run this file for the parameters of ``params`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(params)],
        env={
            **os.environ,
            **GIVE_BACK,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=1500,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def status(name: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (the highest so far) of this process, bytes."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main(path: Path) -> None:
    """Train, measure, print."""
    import torch
    import train_world as world
    from trainer_world import trainer_of
    from transformers import TrainerCallback

    from balcap.params import load_params
    from balcap.policy.build import build_tiny
    from balcap.policy.generate import forbidden_tokens
    from balcap.policy.store import Policy
    from balcap.policy.tokenizer import word_tokenizer
    from balcap.training.config import grpo_config

    class States(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[int] = []

        def on_optimizer_step(self, *args: Any, **_: Any) -> None:
            self.seen.append(status("VmRSS"))

    params = load_params(path)
    train, spec = params.train, params.warmstart.model
    assert spec is not None
    warm = torch.nn.Linear(64, 64)
    warm(torch.ones(4, 64)).sum().backward()
    baseline = status("VmRSS")
    model, processor = build_tiny(spec, word_tokenizer(world.WORDS, params.warmstart.prompt), seed=0)
    policy = Policy(model, processor, params.warmstart.prompt, restore_capitals=True, max_new_tokens=12)
    end = processor.tokenizer.eos_token_id
    model.generation_config.suppress_tokens = sorted([*model.generation_config.suppress_tokens, end])
    states = States()
    with tempfile.TemporaryDirectory() as folder:
        config = grpo_config(train, Path(folder), forbidden_tokens(policy))
        trainer = trainer_of(policy, train, config, train=4, callbacks=[states])
        trainer.args.save_strategy = "no"  # writing a checkpoint is not what is measured
        trainer.train()
    trainer.judging.close()
    print(json.dumps({"baseline": baseline, "states": states.seen[-1], "peak": status("VmHWM")}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]))
