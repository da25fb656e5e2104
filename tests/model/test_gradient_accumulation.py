"""How a batch is cut into micro-batches must not change what is learnt: gradients of the first update, unclipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world

from balcap.training.run import train
from balcap.training.trainer import CaptionTrainer

LOSS = {"clip_low": 0.2, "clip_high": 0.28, "kl": 0.0, "entropy": 0.0}


class Enough(BaseException):
    """Ends a run once its gradients are known."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


def gradients(base: Path, work: Path, micro: int, **loss: Any) -> tuple[torch.Tensor, list[list[int]]]:
    """All gradients of the first update of 8 captions, as one vector, and the captions' token ids."""
    found: dict[str, Any] = {}

    def keep(self: CaptionTrainer, model: Any) -> None:
        assert self.args.gradient_accumulation_steps == 8 // micro
        found["gradients"] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        raise Enough

    def groups(self: CaptionTrainer, completions: list[list[int]]) -> Any:
        found["captions"] = completions
        return original(self, completions)

    original = CaptionTrainer._groups
    samples, references = world.data()
    batch = {"steps": 1, "global_batch_size": 8, "updates_per_step": 1, "micro_batch_size": micro}
    settings = world.settings(**batch, loss={**LOSS, **loss})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(CaptionTrainer, "_clip_grad_norm", keep)
        patch.setattr(CaptionTrainer, "_groups", groups)
        train(settings, base, samples, references, {}, work, world.Tracked(), world.CountingJudge())
    return found["gradients"], found["captions"]


def difference(base: Path, work: Path, **loss: Any) -> float:
    """Of 1 x 8 from 8 x 1, relative."""
    (one, captions), (all_at_once, same) = (gradients(base, work / str(m), m, **loss) for m in (1, 8))
    assert captions == same and all_at_once.norm() > 0 and len({len(ids) for ids in captions}) > 1
    return float((one - all_at_once).norm() / all_at_once.norm())


@pytest.mark.parametrize("kind", ["dapo", "grpo", "dr_grpo"])
def test_one_by_one_with_accumulation_8_equals_8_at_once(base: Path, tmp_path: Path, kind: str) -> None:
    assert difference(base, tmp_path, type=kind) < 1e-5


@pytest.mark.parametrize("loss", [{"type": "bnpo"}, {"type": "dapo", "entropy": 0.5}])
def test_what_trl_averages_over_a_micro_batch_depends_on_its_size(
    base: Path, tmp_path: Path, loss: dict[str, Any]
) -> None:
    """The token means of ``bnpo`` and of the entropy bonus are those of a micro-batch; docs/operate.md says so."""
    assert difference(base, tmp_path, **loss) > 1e-3
