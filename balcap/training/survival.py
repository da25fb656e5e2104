"""How a run survives a scheduler and numbers that are none: it ends in order, all ranks at the same place.

- **SIGTERM**, on one rank or on all: what the running phase has sampled is given up, and the boundary before it is
  written as a checkpoint at once. Once a phase has changed the weights it is finished first: only updates are left of
  it. What must wait longer than the scheduler does ends with the checkpoint before.
- **A loss or gradient norm that is not finite** ends the run before an update is made of it, or, with DeepSpeed, which
  updates within the backward pass, before a checkpoint is.

``training_step`` and ``_get_grad_norm`` are where both are looked for; ranks agree by one small reduction each.
"""

from __future__ import annotations

from typing import Any

import torch

from balcap.policy.store import Policy
from balcap.training.checkpoint import Checkpointed
from balcap.training.stopping import NotFinite, Sigterm, Stopped


class Surviving(Checkpointed):
    """Ends in order; see the module's text. ``sigterm`` listens within its own block."""

    def __init__(self, policy: Policy, **kwargs: Any) -> None:
        self.sigterm = Sigterm()
        self._finite: Any = True
        super().__init__(policy, **kwargs)

    def stop_if_asked(self) -> None:
        """Raise :class:`Stopped`, with a checkpoint, if SIGTERM reached any rank; all ranks call it together."""
        if self.at_boundary() and self._anywhere(self.sigterm.asked)[0]:
            raise Stopped(f"stopped by SIGTERM; {self.checkpoint_now()}, run again to go on")

    def _anywhere(self, *mine: bool) -> list[bool]:
        """For each flag, whether it is set on any rank."""
        if self.ranks == 1:
            return list(mine)
        flags = torch.tensor(mine, dtype=torch.float32, device=self.accelerator.device)
        return [value > 0 for value in self.accelerator.reduce(flags, "sum").tolist()]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.stop_if_asked()
        loss = super().training_step(*args, **kwargs)
        self._finite = torch.isfinite(loss) & self._finite
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        fine = torch.isfinite(torch.as_tensor(norm)) and not self.accelerator.optimizer_step_was_skipped
        found = self._anywhere(not self._finite, not fine)
        if any(found):
            self._refuse([name for name, bad in zip(("loss", "gradient norm"), found, strict=True) if bad])
        return norm

    def _refuse(self, bad: list[str]) -> None:
        step, update = divmod(self.state.global_step, self.updates_per_phase)
        raise NotFinite(
            f"step {step + 1}, update {update + 1}: no finite number: {', '.join(bad)}; {self.kept()}, and nothing of "
            "this is in it. The same run would come here again: lower train.optimizer.learning_rate or "
            "train.optimizer.max_grad_norm, or train in float32 (train.precision)"
        )
