"""A step of the paper's captioners at their real size: seconds, FLOP/s, memory and the share of each part.

    python benchmarks/gpu_step.py                          on a CUDA machine (80 GB): both 7B captioners
    python benchmarks/gpu_step.py --size tiny              anywhere: the same code with a few thousand weights

Weights are random, so a caption runs to its greatest length. Weights, gradients and moments are bfloat16, so that one
card holds what ZeRO spreads over several; the vision tower is frozen, activations are recomputed. Ours and stock TRL
(rewards that cost nothing) do the same step on the same pictures, one after the other: two do not fit side by side.

step       seconds of a step, ours / stock TRL
tokens     caption tokens per second, ours / stock TRL
memory     highest memory of the GPU in GB, ours / stock TRL; none on a CPU, where both share one process
mfu        FLOP/s of the update / FLOP/s of a large matrix product measured in the same run
generate, logprobs, judge, update, rest       seconds of that part / seconds of the step, ours

FLOP of an update per caption (balcap/plan/work.py): 2 P T + 2 L H T^2 forward for P matrix parameters, T tokens, L
layers of width H; the same again for activations, in the share that is trained for weights; recomputation does not
count as useful work. The tower's forward pass counts once.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _captioners import CUDA, FAMILIES, captioner, free
from _trainers import ROOT, SlowJudge, Turns, instant, median_interval, per_step, pictures, settings
from transformers import PrinterCallback
from trl import GRPOTrainer

from balcap.params import Params, load_params
from balcap.params.train import Train
from balcap.plan.shape import TOWERS, shape
from balcap.plan.work import update_flops
from balcap.policy.generate import chat_prompt, forbidden_tokens
from balcap.policy.store import Policy
from balcap.training.clock import Clock
from balcap.training.config import grpo_config
from balcap.training.data import dataset
from balcap.training.judging import Judging
from balcap.training.run import freeze
from balcap.training.trainer import CaptionTrainer

PARTS = ("generate", "logprobs", "judge_exposed", "update")
SIZES: dict[str, dict[str, Any]] = {
    "real": {"side": 448, "captions": 32, "micro": 4, "length": 256, "product": 8192},
    "tiny": {"side": 112, "captions": 8, "micro": 4, "length": 12, "product": 512},
}
WARM_UP = 1
"""First steps, in which the allocator and AdamW's moments settle; not counted."""


class Synced(Clock):
    """Books work on the part that asked for it: a GPU is waited for wherever one part ends."""

    def _turn(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
        super()._turn()


class Steps(Turns):
    """The sides run one after the other; ``parts`` holds what the trainer's clock says of each step."""

    clock: Clock | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parts: list[dict[str, float]] = []

    def on_pre_optimizer_step(self, *args: Any, **_: Any) -> None:
        if self.clock:
            self._optimizer = self.clock("update")
            self._optimizer.__enter__()

    def on_optimizer_step(self, *args: Any, **_: Any) -> None:
        if self.clock:
            self._optimizer.__exit__(None, None, None)

    def _book(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
        super()._book()
        if self.clock and self._began:
            self.parts.append(self.clock.take())
        elif self.clock:
            self.clock.restart()


def main() -> None:
    """Measure each captioner, print one line per figure and a last one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="real" if CUDA else "tiny")
    parser.add_argument("--captioner", choices=FAMILIES, action="append", help="default: each")
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    if asked.size == "real" and not CUDA:
        parser.error("--size real needs a CUDA GPU with 80 GB; --size tiny runs anywhere")
    torch.set_num_threads(torch.get_num_threads() if CUDA else 1)
    found = [measure(name, asked.size, asked.steps) for name in asked.captioner or FAMILIES]
    for lines, _ in found:
        for line in lines:
            print(json.dumps(line))
    where = torch.cuda.get_device_name() if CUDA else "CPU"
    print(json.dumps({"benchmark": "gpu_step", "on": where, "seen": [facts for _, facts in found], "holds": True}))


def measure(name: str, size: str, steps: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of one captioner, and what is no ratio: parameters, tokens of the text model per second, memory."""
    spec = SIZES[size]
    train = settings(
        steps=WARM_UP + steps + 1,
        global_batch_size=spec["captions"],
        group_size=4,
        updates_per_step=2,
        micro_batch_size=spec["micro"],
        precision="bfloat16" if CUDA else "float32",
        gradient_checkpointing=True,
        judge_deadline=600.0,
        frozen=[],
    )
    train = train.model_copy(update={"sampling": train.sampling.model_copy(update={"max_new_tokens": spec["length"]})})
    policy = captioner(name, size, spec["length"])
    train = train.model_copy(update={"frozen": (TOWERS[policy.model.config.model_type],)})
    counts = shape(policy.model.config, train, spec["side"])
    mine, memory = run(train, policy, spec, ours)
    del policy
    theirs, other_memory = run(train, captioner(name, size, spec["length"]), spec, stock)
    label = f"gpu_step/{name}" + ("" if size == "real" else " (tiny)")
    walls, stocks = (np.array(side.wall[WARM_UP:]) for side in (mine, theirs))
    flops = spec["captions"] * update_flops(useful(train), counts, 16, spec["length"])
    updates = np.array([step["update"] for step in mine.parts[WARM_UP:]])
    tokens = spec["captions"] * spec["length"]
    lines = [line(f"{label}: step", walls, stocks), line(f"{label}: tokens", tokens / walls, tokens / stocks)]
    if CUDA:
        lines.append(line(f"{label}: memory", np.array([memory]), np.array([other_memory])))
    lines.append(line(f"{label}: mfu", flops / updates / 1e12, np.full(len(updates), peak(spec["product"]) / 1e12)))
    rest = walls - sum(np.array([step.get(part, 0.0) for step in mine.parts[WARM_UP:]]) for part in PARTS)
    for part in PARTS:
        spent = np.array([step.get(part, 0.0) for step in mine.parts[WARM_UP:]])
        lines.append(line(f"{label}: {part.removesuffix('_exposed')}", spent, walls))
    lines.append(line(f"{label}: rest", rest, walls))
    return lines, {
        "captioner": name,
        "size": size,
        "parameters": counts.total,
        "trained": counts.trained,
        "trained_tokens_per_second": round(
            spec["captions"] * (counts.image_tokens + 16 + spec["length"]) / float(np.median(walls)), 1
        ),
        "peak_gb": {"ours": round(memory, 2), "stock": round(other_memory, 2)},
    }


def useful(train: Train) -> Params:
    """The parameters for counting: recomputed activations are no useful work."""
    params = load_params(ROOT / "recipes/embedded.yaml")
    return params.model_copy(update={"train": train.model_copy(update={"gradient_checkpointing": False})})


def run(train: Any, policy: Policy, spec: dict[str, Any], build: Callable[..., GRPOTrainer]) -> tuple[Steps, float]:
    """One side's steps, and the most memory that it took (GB; on CPU the process's, which both sides share)."""
    turns = Steps(train.updates_per_step)
    freeze(policy.model, train.frozen)
    free()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(prefix="balcap-bench-") as folder:
        trainer = build(train, policy, spec, Path(folder), turns)
        turns.start(trainer, torch.get_num_threads())
        for _ in range(train.steps):
            turns.phase()
        turns.end()
    highest = torch.cuda.max_memory_allocated() if CUDA else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return turns, highest / 1e9


def _common(train: Any, policy: Policy, spec: dict[str, Any], work: Path) -> tuple[Any, Any, Any]:
    """Settings, rows and pictures of both sides."""
    shown = pictures(2 * per_step(train), spec["side"], spec["side"])
    config = replace(grpo_config(train, work, forbidden_tokens(policy)), generation_batch_size=None, save_strategy="no")
    rows = dataset([p.sample for p in shown], chat_prompt(policy), per_step(train), train.steps, train.seed)
    return config, rows, shown


def ours(train: Any, policy: Policy, spec: dict[str, Any], work: Path, turns: Steps) -> GRPOTrainer:
    """Our trainer with a judge that answers at once."""
    config, rows, shown = _common(train, policy, spec, work)
    judging = Judging(SlowJudge(), train)
    trainer = CaptionTrainer(policy, train, config, rows, {p.sample.image_id: p for p in shown}, judging, [turns])
    trainer.clock = turns.clock = Synced()
    return trainer


def stock(train: Any, policy: Policy, spec: dict[str, Any], work: Path, turns: Steps) -> GRPOTrainer:
    """TRL's trainer with GDPO as TRL has it."""
    config, rows, _ = _common(train, policy, spec, work)
    config = replace(config, generation_batch_size=None, multi_objective_aggregation="normalize_then_sum")
    functions = list(instant(tuple(train.reward_weights)))
    trainer = GRPOTrainer(
        policy.model, functions, config, train_dataset=rows, processing_class=policy.processor, callbacks=[turns]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def peak(side: int) -> float:
    """FLOP/s of a square matrix product in the precision of training."""
    device, dtype = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
    left = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(12):
        begun = time.perf_counter()
        left @ left
        if CUDA:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2.0 * side**3 / best


def line(name: str, ours_: np.ndarray, against: np.ndarray) -> dict[str, Any]:
    """One figure: the median of the steps' ratios, and on which GPU it was measured."""
    few = min(len(ours_), len(against))
    ratio, interval = median_interval(ours_[:few] / against[:few])
    return {
        "benchmark": name,
        "ratio": round(ratio, 6),
        "interval": interval,
        "ours": round(float(np.median(ours_)), 4),
        "against": round(float(np.median(against)), 4),
        "goal": "stated",
        "holds": True,
        **({"on": torch.cuda.get_device_name()} if CUDA else {}),
    }


if __name__ == "__main__":
    main()
