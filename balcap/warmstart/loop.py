"""The supervised loop: AdamW, cosine schedule, clipping, and a state on disk from which it goes on exactly.

    rate(step) = peak * (step + 1) / warm-up                                            while step < warm-up
               = peak * (final + (1 - final) * (1 + cos(pi * progress)) / 2)            afterwards

The state is one safetensors file, replaced as a whole: weights and the optimiser's two moments as tensors, phase and
step in its header. Nothing is pickled, and there is no random state to keep: a batch depends on its step alone, and
nothing is dropped out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from balcap.files import atomic_path
from balcap.params.warmstart import Phase, SupervisedOptimizer
from balcap.progress import Progress
from balcap.warmstart import Log

SAVE_EVERY = 20
LOG_EVERY = 10
"""Steps from one log point to the next; a point is the mean since the one before."""


@dataclass(frozen=True)
class Task:
    """One phase: what it trains are the model's parameters that require a gradient, and its own heads."""

    batch: Callable[[int], Any]
    """The batch of a step, from the step alone; called in a thread of its own, one step ahead."""
    loss: Callable[[Any], Tensor]
    """Mean loss of a batch, a scalar."""
    heads: nn.Module = field(default_factory=nn.Identity)
    """Thrown away at the end of the phase."""


@dataclass(frozen=True)
class Stage:
    """Where a phase stands in the whole: its name, its length and how its task is made when its turn comes."""

    name: str
    spec: Phase
    make: Callable[[], Task]


class State:
    """The file that an interrupted run goes on from: the next phase, the next step, weights and moments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.phase, self.step = 0, 0
        if path.exists():
            with safe_open(path, "pt") as f:
                self.phase, self.step = int(f.metadata()["phase"]), int(f.metadata()["step"])

    def save(self, phase: int, step: int, parts: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Replace the file by the present state of ``parts`` and ``optimizer``."""
        tensors = {}
        for name, p in parts.named_parameters():
            tensors[f"weight/{name}"] = p.detach()
            moments = optimizer.state.get(p, {}) if optimizer else {}
            tensors |= {f"{key}/{name}": moments[key] for key in ("exp_avg", "exp_avg_sq") if key in moments}
        with atomic_path(self.path) as tmp:
            save_file(tensors, tmp, metadata={"phase": str(phase), "step": str(step)})

    def load(self, parts: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put what the file holds into ``parts`` and ``optimizer``; without a file nothing happens."""
        if not self.path.exists():
            return
        with safe_open(self.path, "pt") as f, torch.no_grad():
            saved = set(f.keys())
            for name, p in parts.named_parameters():
                p.copy_(f.get_tensor(f"weight/{name}"))
                if optimizer and f"exp_avg/{name}" in saved:
                    moments = {key: f.get_tensor(f"{key}/{name}").clone() for key in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[p] = {"step": torch.tensor(float(self.step)), **moments}


def run_stages(model: nn.Module, stages: Sequence[Stage], settings: SupervisedOptimizer, path: Path, log: Log) -> None:
    """Train ``model`` in place, phase after phase, from where the state at ``path`` says that an earlier run stopped.

    ``log`` gets ``loss/PHASE`` with steps counted over all phases.
    """
    state = State(path)
    before = [sum(stage.spec.steps for stage in stages[:i]) for i in range(len(stages) + 1)]
    progress = Progress("warmstart", before[-1], "steps")
    progress.skip(before[state.phase] + state.step)
    if not state.step:
        state.load(_parts(model))
    for i in range(state.phase, len(stages)):
        first = state.step if i == state.phase else 0
        tell = _teller(stages[i].name, log, progress, before[i])
        _run_stage(model, stages[i], settings, i, first, state, tell)


def learning_rate(spec: Phase, settings: SupervisedOptimizer, step: int) -> float:
    """The rate of a step: linear warm-up (at most a quarter of the phase), then cosine."""
    warmup = min(settings.warmup_steps, spec.steps // 4)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(spec.steps - warmup, 1)
    final = settings.final_rate
    return spec.learning_rate * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


def _parts(model: nn.Module, heads: nn.Module | None = None) -> nn.ModuleDict:
    return nn.ModuleDict({"model": model} | ({"heads": heads} if heads else {}))


def _run_stage(
    model: nn.Module,
    stage: Stage,
    settings: SupervisedOptimizer,
    number: int,
    first: int,
    state: State,
    tell: Callable[[int, float], None],
) -> None:
    task = stage.make()
    parts = _parts(model, task.heads)
    trained = [p for p in parts.parameters() if p.requires_grad]
    rate, decay = stage.spec.learning_rate, settings.weight_decay
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=settings.betas, weight_decay=decay, fused=True)
    if first:
        state.load(parts, optimizer)
    for step, batch in _ahead(task.batch, first, stage.spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage.spec, settings, step)
        loss = task.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tell(step, loss.item())
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < stage.spec.steps:
            state.save(number, step + 1, parts, optimizer)
    state.save(number + 1, 0, _parts(model))


def _ahead(batch: Callable[[int], Any], first: int, last: int) -> Iterator[tuple[int, Any]]:
    """Steps and batches; the next batch is drawn while the present one is trained on."""
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(batch, first) if first < last else None
        for step in range(first, last):
            assert waiting is not None
            drawn = waiting.result()
            waiting = thread.submit(batch, step + 1) if step + 1 < last else None
            yield step, drawn


def _teller(name: str, log: Log, progress: Progress, before: int) -> Callable[[int, float], None]:
    """Shows every step's loss and logs the mean of every ``LOG_EVERY``."""
    losses: list[float] = []

    def tell(step: int, loss: float) -> None:
        losses.append(loss)
        progress.advance(1, f"{name} loss {loss:.3f}")
        if (step + 1) % LOG_EVERY == 0:
            log({f"loss/{name}": sum(losses) / len(losses)}, before + step + 1)
            losses.clear()

    return tell
