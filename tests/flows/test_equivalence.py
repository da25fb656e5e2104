"""``dvc repro``, ``dvc exp run -S`` and the flow give the same ``dvc.lock``, byte by byte; then nothing is left to do.

Three clones, each with its own DVC cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import _dvc
from tests.flows.helpers import dvc


def test_three_ways_one_lock(
    new_repo: Callable[[str], Path], run: Callable[..., Any], executed: Callable[[], list[str]]
) -> None:
    overrides = ["train.reward_weights.recall=2", "train.seed=3"]
    every = ["prepare", "train", "evaluate"]
    options = [word for override in overrides for word in ("-S", override)]

    plain = new_repo("plain")
    _dvc.apply_overrides(plain / "params.yaml", overrides)
    dvc("repro", cwd=plain)
    assert executed() == every

    experiment = new_repo("experiment")
    dvc("exp", "run", *options, cwd=experiment)
    assert executed() == every

    flow = new_repo("flow")
    result = run(overrides=overrides, apply=True).result()
    assert executed() == every

    assert not any((root / ".dvc/cache").samefile(plain / ".dvc/cache") for root in (experiment, flow))
    locks = [(root / "dvc.lock").read_bytes() for root in (plain, experiment, flow)]
    assert locks[0] == locks[1] == locks[2] == result.lock.encode()
    params = [(root / "params.yaml").read_bytes() for root in (plain, experiment, flow)]
    assert params[0] == params[1] == params[2]

    # Once more, each way in each clone: nothing is executed, and the lock stays.
    for root in (plain, experiment, flow):
        dvc("repro", cwd=root)
        assert _dvc.why(root, "prepare") is None
    dvc("exp", "run", *options, cwd=flow)
    run(overrides=overrides, apply=True).result()
    assert executed() == []
    assert [(root / "dvc.lock").read_bytes() for root in (plain, experiment, flow)] == locks
