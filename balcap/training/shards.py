"""DeepSpeed's part of a checkpoint: what each rank holds of weights and optimizer, as safetensors instead of pickles.

    adopt(engine)                       # once, after it was made
    save_shards(engine, folder)         # all ranks together
    load_shards(engine, folder)         # the weights, below ZeRO-3, are the caller's

DeepSpeed names its files ``….pt``; here each is a folder of that name with one safetensors file in it. Weights are left
out where every rank has them all, for the checkpoint's captioner holds them; ZeRO-3 makes them from float32 masters.
Frozen ones are those of the base. An error while writing is kept until all ranks have met, because whoever leaves early
would let the others wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine
from safetensors import SafetensorError

from balcap.training.nested import load_nested, save_nested

STATE = "state.safetensors"
TAG = "shards"
MODULE, SCALER = "module", "loss_scaler"
LEFT_OUT = frozenset({SCALER, "param_slice_mappings"})
"""Objects of DeepSpeed: the scaler of float16, which is never used here, and a table for its universal format."""


class Safe(CheckpointEngine):
    """Reads and writes one state per call; ``error`` is the first that could not be written."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.name = "safetensors"
        self.engine = engine
        self.error: OSError | SafetensorError | None = None

    def create(self, info: CheckpointCommitInfo) -> None:
        self.error = None

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Folders come with their files."""

    def save(self, state_dict: Any, path: str) -> None:
        if MODULE in state_dict and self.engine.zero_optimization_stage() < 3:
            state_dict = {**state_dict, MODULE: {}}
        try:
            save_nested(plain(state_dict), Path(path) / STATE)
        except (OSError, SafetensorError) as error:
            self.error = self.error or error

    def load(self, path: str, map_location: Any = None) -> Any:
        state = load_nested(Path(path) / STATE)
        if sharded := state.get("optimizer_state_dict"):
            sharded[SCALER] = self.engine.optimizer.loss_scaler  # ZeRO-3 insists on one; the scale is always 1
        return state

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return self.error is None

    def preserves_storage_sharing(self) -> bool:
        return False  # so that DeepSpeed need not copy every tensor first


def plain(state: Any) -> Any:
    """Without what :data:`LEFT_OUT` names, at any depth of dictionaries."""
    if not isinstance(state, dict):
        return state
    return {key: plain(value) for key, value in state.items() if key not in LEFT_OUT}


def adopt(engine: Any) -> None:
    """Let a DeepSpeed engine write and read safetensors only, and leave no scripts beside them."""
    engine.checkpoint_engine = Safe(engine)
    engine._copy_recovery_script = lambda save_path: None


def save_shards(engine: Any, folder: Path) -> None:
    """Write this rank's part into ``folder``; all ranks call it together. Raises its error once they have met."""
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    if engine.checkpoint_engine.error:
        raise engine.checkpoint_engine.error


def load_shards(engine: Any, folder: Path) -> None:
    """Bring this rank's part of the optimizer back from ``folder``, under ZeRO-3 the trained weights too."""
    engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=False)
