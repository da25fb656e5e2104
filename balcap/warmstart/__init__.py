"""The starting captioner: supervised training, or a pinned checkpoint. Reinforcement learning goes on from it.

    run(params.warmstart, samples, references, work, out, log)

Three methods, one file each: ``scenes`` (the embedded world, in three phases), ``references`` (the training pictures'
own references), ``checkpoint`` (a directory pinned by hash). Equal parameters and data give equal bytes, on one machine
with one number of threads, also after any number of interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from balcap.params.warmstart import CheckpointMethod, ReferencesMethod, Warmstart
from balcap.records import Reference, Sample

Log = Callable[[dict[str, float], int | None], None]
"""Takes metric values and the step they belong to."""


class WarmstartError(ValueError):
    """A checkpoint or data that cannot be started from; the message names it and the remedy."""


def run(
    params: Warmstart,
    samples: Iterable[Sample],
    references: Mapping[str, Reference],
    work: Path,
    out: Path,
    log: Log,
) -> None:
    """Make the captioner folder ``out``; ``work`` keeps what an interrupted run goes on from.

    ``samples`` are the training pictures (read by the method ``references`` only). Raises :class:`WarmstartError`.
    """
    if isinstance(params.method, CheckpointMethod):
        from balcap.warmstart import checkpoint

        checkpoint.adopt(params, params.method, out)
    elif isinstance(params.method, ReferencesMethod):
        from balcap.warmstart import references as on_references

        on_references.train(params, params.method, samples, references, work, out, log)
    else:
        from balcap.warmstart import scenes

        scenes.train(params, params.method, work, out, log)
