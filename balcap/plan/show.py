"""A plan as tables that a person reads, and as one JSON object."""

from __future__ import annotations

from dataclasses import asdict
from math import inf
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from balcap.plan import Plan
from balcap.plan.fit import GB
from balcap.plan.memory import Need
from balcap.plan.work import JUDGE_READS, JUDGE_WRITES

STANDING = ("weights", "gradients", "optimizer", "reference", "rollouts", "pictures")
PASSING = ("cache", "prefill", "activations", "logits", "backward", "update")


def tables(found: Plan) -> RenderableType:
    """Everything, top to bottom."""
    return Group(_model(found), _memory(found), _notes(found), _judge(found), _hours(found), *_with_judges(found))


def _model(found: Plan) -> Text:
    shape, train, launch = found.shape, found.params.train, found.params.runtime.launch
    kind = f"LoRA of rank {train.lora.rank}" if train.lora else "the weights themselves"
    return Text(
        f"captioner  {shape.total / 1e9:.3f} B parameters: {shape.trained / 1e9:.3f} B trained ({kind}), "
        f"{(shape.total - shape.trained) / 1e9:.3f} B frozen; from {found.source}\n"
        f"launch     {launch.ranks} GPUs of {found.machine.memory / GB:g} GB, deepspeed {launch.deepspeed}, offload "
        f"{launch.offload}; {train.precision}, {train.sampler}\n"
        f"a caption  {shape.image_tokens} picture + {found.prompt} prompt + at most {train.sampling.max_new_tokens} "
        f"tokens; {train.micro_batch_size} at once, {train.global_batch_size} per step\n"
    )


def _memory(found: Plan) -> Table:
    table = Table(title="GB on each GPU, by ZeRO stage", title_justify="left")
    table.add_column("")
    for need in found.table:
        table.add_column(f"[bold]{need.stage}*" if need.stage == found.need.stage else need.stage, justify="right")
    for part in STANDING + PASSING:
        sizes = [getattr(need, part) for need in found.table]
        if any(sizes):
            table.add_row(part, *(_gb(size) for size in sizes))
    table.add_section()
    for moment in found.need.moments:
        table.add_row(f"while: {moment}", *(_gb(need.moments[moment]) for need in found.table))
    table.add_row("[bold]peak", *(_verdict(need, found.machine.memory) for need in found.table))
    table.add_row("main memory, per GPU", *(_gb(need.host) for need in found.table))
    return table


def _notes(found: Plan) -> Text:
    return Text(
        "* the recipe's. GB are 10^9 bytes: a card's own are 7 % larger, which is left to CUDA and to fragmentation.\n"
    )


def _verdict(need: Need, gpu: float) -> str:
    return f"[{'green' if need.peak <= gpu else 'red'}]{_gb(need.peak)}"


def _gb(size: float) -> str:
    return f"{size / GB:.2f}"


def _judge(found: Plan) -> RenderableType:
    train = found.params.train
    if not found.calls:
        return Text(f"judge      {train.judge.name} works by rule: no calls\n")
    table = Table(title=f"judge calls over {train.steps} steps", title_justify="left")
    for name in ("call", "per step", "whole run", "tokens read", "of the picture", "written", "at most"):
        table.add_column(name, justify="left" if name == "call" else "right")
    for one in found.calls:
        numbers = (one.reads, one.of_picture, one.writes, one.writes_at_most)
        table.add_row(one.kind, f"{one.per_step:,}", f"{one.per_step * train.steps:,}", *(f"{n:,}" for n in numbers))
    calls, reads, writes = totals(found)
    table.add_section()
    table.add_row(
        "all, tokens of all calls", f"{calls:,}", f"{calls * train.steps:,}", f"{reads:,}", "", f"{writes:,}", ""
    )
    return table


def totals(found: Plan) -> tuple[int, int, int]:
    """Calls, tokens read and tokens written per step."""
    calls = found.calls
    return (
        sum(one.per_step for one in calls),
        sum(one.per_step * one.reads for one in calls),
        sum(one.per_step * one.writes for one in calls),
    )


def _hours(found: Plan) -> Text:
    one, machine, steps = found.seconds, found.machine, found.params.train.steps
    lines = [
        f"hours      {found.hours():.1f} of training alone (estimate): {steps} steps of {one.step(inf):.1f} s = "
        f"sampling {one.sampling:.1f} + log-probabilities {one.logprobs:.1f} + update {one.update:.1f}",
        f"           assumed: {machine.flops / 1e12:.0f} TFLOP/s per GPU, {machine.mfu:.0%} of it reached, "
        f"{machine.bandwidth / 1e12:.2f} TB/s, captions of {found.caption} tokens",
    ]
    if found.calls:
        lines += [
            f"judge      {one.judging * steps / 3600:.1f} GPU hours of its own (estimate), {one.judging:.1f} s a step",
            "           between sampling and update, where only the log-probabilities hide it",
            f"           assumed: {JUDGE_READS:,.0f} tokens/s read and {JUDGE_WRITES:,.0f} written per GPU (a 7B);",
            f"           {found.units.per_reference:.0f} units per reference ({found.units.source})",
        ]
    return Text("\n".join(lines))


def _with_judges(found: Plan) -> list[RenderableType]:
    """Hours of the run as training waits for more or fewer judge GPUs."""
    if not found.calls:
        return []
    table = Table(title="\nhours of the run, by GPUs of the judge (estimate)", title_justify="left")
    table.add_column("judge GPUs")
    for judges in found.by_judges:
        table.add_column(f"{judges}", justify="right")
    table.add_row("hours", *(f"{hours:.1f}" for hours in found.by_judges.values()))
    return [table]


def as_json(found: Plan) -> dict[str, Any]:
    """All numbers: bytes, tokens, seconds, hours."""
    calls, reads, writes = totals(found)
    train = found.params.train
    return {
        "recipe": found.params.recipe,
        "source": found.source,
        "parameters": {
            "total": found.shape.total,
            "trained": found.shape.trained,
            "frozen": found.shape.total - found.shape.trained,
        },
        "gpus": found.params.runtime.launch.ranks,
        "gpu_memory": found.machine.memory,
        "chosen": found.need.stage,
        "memory": {
            n.stage: asdict(n) | {"states": n.states, "moments": n.moments, "peak": n.peak} for n in found.table
        },
        "judge": {
            "calls": [asdict(one) for one in found.calls],
            "per_step": {"calls": calls, "reads": reads, "writes": writes},
            "run": {name: n * train.steps for name, n in (("calls", calls), ("reads", reads), ("writes", writes))},
            "gpu_hours": found.seconds.judging * train.steps / 3600,
            "gpus_that_hide_it": found.seconds.hiding,
            "units": asdict(found.units),
        },
        "seconds": asdict(found.seconds) | {"step": found.seconds.step(inf)},
        "hours": {"training_alone": found.hours(), "by_judge_gpus": found.by_judges if found.calls else {}},
        "assumed": asdict(found.machine) | {"caption_tokens": found.caption, "prompt_tokens": found.prompt},
        "fits": not found.faults,
        "faults": list(found.faults),
    }
