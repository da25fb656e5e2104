"""What a step reports, and the look at the fixed pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import train_world as world

from balcap.policy.store import load_policy
from balcap.records import Picture
from balcap.training import callbacks
from balcap.training.callbacks import History, Reporter
from balcap.training.judging import Judging
from balcap.training.metrics import TIMES, over_ranks
from balcap.training.run import make_trainer

MINE = {"judge/recall/calls": 2.0, "judge/recall/failures": 0.0}
THEIRS = {"judge/recall/calls": 3.0, "judge/cache/hits": 1.0}
BOTH = {"judge/recall/calls": 5.0, "judge/recall/failures": 0.0, "judge/cache/hits": 1.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def reporter(base: Path, tmp_path: Path) -> Iterator[Reporter]:
    """Of a trainer that looks at three pictures behind every second step."""
    params = world.settings(steps=3, micro_batch_size=2, gradient_checkpointing=True, sample_images=3)
    samples, references = world.data(held_out=3)
    pictures = {
        split: [Picture(s, references[s.image_id]) for s in samples if s.split == split] for split in ("train", "eval")
    }
    judging = Judging(world.CountingJudge(), params)
    found = Reporter(params, judging, pictures["eval"], History(), world.Tracked())
    make_trainer(params, load_policy(base), pictures["train"], judging, found, tmp_path)
    yield found
    judging.close()


def test_counts_of_ranks_are_added_and_zeros_kept() -> None:
    assert over_ranks([MINE, THEIRS]) == BOTH and over_ranks([MINE]) == MINE and over_ranks([{}]) == {}


def test_a_step_tells_what_all_ranks_cost_and_how_long_the_look_took(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter.judging.judge, "account", lambda: MINE)
    monkeypatch.setattr(callbacks, "gather_object", lambda mine: [*mine, THEIRS])
    reporter.trainer.train()
    logged = [metrics for _, metrics in reporter.run.logged if "time/step" in metrics]  # type: ignore[attr-defined]
    assert len(logged) == 3
    assert all({name: row[name] for name in BOTH} == BOTH for row in logged)
    assert all({f"time/{name}" for name in TIMES} <= set(row) for row in logged)
    assert [row["time/samples"] > 0.0 for row in logged] == [False, True, True]
    assert [row["step"] for row in reporter.history.samples] == [0] * 3 + [2] * 3 + [3] * 3


def test_a_look_asks_for_all_captions_at_once(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    generate = callbacks.generate_captions

    def ask(*args: Any, **options: Any) -> Any:
        asked.append(options["batch_size"])
        return generate(*args, **options)

    monkeypatch.setattr(callbacks, "generate_captions", ask)
    reporter._show(0)
    assert asked == [3]


def test_a_look_leaves_checkpointing_as_it_was(reporter: Reporter) -> None:
    """TRL sets ``use_reentrant`` for adapters under ZeRO-3; switched on again without it, ZeRO-3 fails."""
    trainer = reporter.trainer
    trainer.args.gradient_checkpointing_kwargs = {"use_reentrant": True}
    trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
    reporter._show(0)
    functions = [
        m._gradient_checkpointing_func for m in trainer.model.modules() if hasattr(m, "gradient_checkpointing")
    ]
    assert functions and all(function.keywords == {"use_reentrant": True} for function in functions)
