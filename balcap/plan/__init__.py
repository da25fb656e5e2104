"""What a training run will need, before anything starts: memory per GPU, calls and hours; what cannot fit.

    found = plan(params, Path(), gpus=8)
    found.faults                    # empty when it fits; otherwise what needs how much, and which setting to change

Memory is predicted by running one forward and backward pass with tensors without content (``trace.py``), so no weight
is read and no GPU is needed. Hours are estimates (``work.py`` names every assumption).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from balcap.params import Params, ParamsError, load_params
from balcap.params.launch import launch_faults
from balcap.plan.captioner import captioner
from balcap.plan.fit import GB, changed, faults, stages
from balcap.plan.memory import Need, Planner
from balcap.plan.shape import Shape
from balcap.plan.work import ASSUMED, Calls, Machine, Seconds, Units, judge_calls, judge_seconds, seconds, units

H100 = Machine(memory=80 * GB, flops=989e12, mfu=0.35, bandwidth=3.35e12)
TEMPLATE_TOKENS = 32
"""Of the chat template around the instruction."""
LETTERS = 4
"""Per token of the instruction."""


@dataclass(frozen=True)
class Plan:
    """Everything that is predicted; bytes, tokens, seconds."""

    params: Params
    source: str
    """Where the captioner's shape was learnt."""
    shape: Shape
    prompt: int
    caption: int
    """Tokens of the instruction with its template, and of a caption as hours and judging assume it."""
    table: tuple[Need, ...]
    """One row per ZeRO stage."""
    need: Need
    """The chosen one."""
    units: Units
    calls: tuple[Calls, ...]
    machine: Machine
    seconds: Seconds
    faults: tuple[str, ...]

    def hours(self, judges: float = inf) -> float:
        """Of the whole run with that many judge GPUs; with infinitely many, of training alone."""
        return self.params.train.steps * self.seconds.step(judges) / 3600

    @property
    def by_judges(self) -> dict[int, float]:
        """Hours by number of judge GPUs: doubled, up to the number with which nothing waits for them."""
        most = self.seconds.hiding
        doubled = [2**n for n in range(7) if most is None or 2**n < most]
        return {judges: self.hours(judges) for judges in [*doubled, *([most] if most else [])]}


def plan(params: Params, root: Path, gpus: int | None = None, caption: int = 256, machine: Machine = H100) -> Plan:
    """Plan ``train`` on ``gpus`` GPUs (None: as ``runtime.launch`` says) of a kind.

    Raises :class:`ParamsError` for a launch that the parameters rule out, ``CaptionerUnknown``, ``PolicyError``.
    """
    params = _on(params, gpus)
    found = captioner(params.warmstart, root)
    prompt = TEMPLATE_TOKENS + len(params.warmstart.prompt) // LETTERS
    planner = Planner(found.config, params.prepare.images.size, prompt, machine.memory)
    shape, caption = planner.shape(params), min(caption, params.train.sampling.max_new_tokens)
    known = known_units(params, root)
    calls = judge_calls(params, caption, known)
    return Plan(
        params,
        found.source,
        shape,
        prompt,
        caption,
        tuple(planner.need(params, launch) for launch in stages(params.runtime.launch)),
        planner.need(params),
        known,
        tuple(calls),
        machine,
        seconds(params, shape, prompt, caption, machine, judge_seconds(calls)),
        tuple(faults(planner, params)),
    )


def known_units(params: Params, root: Path) -> Units:
    """What the references below ``root`` hold, if ``params.yaml`` there makes such; otherwise what is assumed."""
    try:
        there = load_params(root / "params.yaml")
    except ParamsError:
        return ASSUMED
    same = (there.prepare, there.collect_references) == (params.prepare, params.collect_references)
    return units(root / "data/references.parquet") if same else ASSUMED


def _on(params: Params, gpus: int | None) -> Params:
    """The parameters on that many GPUs: as many machines as the recipe has where they divide it, else one."""
    if gpus is None:
        return params
    nodes = params.runtime.launch.nodes
    nodes = nodes if gpus % nodes == 0 else 1
    params = changed(params, launch={"nodes": nodes, "processes": gpus // nodes})
    if wrong := launch_faults(params.train, params.runtime):
        raise ParamsError(f"--gpus {gpus}: {'; '.join(wrong)}")
    return params
