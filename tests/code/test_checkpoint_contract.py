"""What checkpoints assume of transformers, TRL, accelerate and DeepSpeed: fails when upstream moves.

Trainer's own writing and loading are replaced; each thing that they keep is kept here, or cannot be on.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer

from balcap.training.manifest import CheckpointError, check_setting, checkpoints, damage, hashes, newest, write
from balcap.training.manifest import files as files_of
from balcap.training.nested import load_nested, save_nested


def test_what_trainer_puts_into_a_checkpoint_is_what_ours_replaces() -> None:
    source = inspect.getsource(Trainer._save_checkpoint)
    calls = set(re.findall(r"self\.(\w*(?:save|store|push)\w*)\(", source))
    assert calls == {
        "store_flos",  # a count for logs
        "save_model",  # policy/
        "_save_optimizer_and_scheduler",
        "_save_scaler",  # float16 only
        "_save_rng_state",
        "_push_from_checkpoint",  # off
    }
    assert "self.state.save_to_json(" in source
    source = inspect.getsource(GRPOTrainer._save_checkpoint)
    assert source.count("json.dump(") == 1 and "if self.use_adaptive_entropy" in source
    assert GRPOConfig.use_adaptive_entropy is False and GRPOConfig.fp16 is False


def test_what_trainer_loads_is_what_ours_replaces() -> None:
    source = inspect.getsource(Trainer._prepare_for_training)
    before, _, loading = source.partition("if resume_from_checkpoint is not None:")
    assert "resume_from_checkpoint" not in before.partition("\n")[2]  # with None nothing at all is loaded here
    calls = re.findall(r"(?:self\.(_load\w+)|(deepspeed_load_checkpoint))\(", loading)
    assert {a or b for a, b in calls} == {
        "deepspeed_load_checkpoint",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_scaler",
    }
    assert loading.index("_load_scaler") < loading.index("callback_handler.train_dataloader")


def test_random_numbers_are_loaded_behind_the_skipped_batches_and_before_the_first_step() -> None:
    source = inspect.getsource(Trainer._run_epoch)
    places = [source.index(call) for call in ("self.get_batch_samples(", "if rng_to_sync:", "self.training_step(")]
    assert places == sorted(places)


def test_the_gradient_norm_is_asked_for_before_the_update_and_the_update_before_the_checkpoint() -> None:
    source = inspect.getsource(Trainer._run_epoch)
    calls = ["self.training_step(", "self._get_grad_norm(", "self.optimizer.step()", "self._maybe_log_save_evaluate("]
    places = [source.index(call) for call in calls]
    assert places == sorted(places)


def test_a_phase_is_sampled_again_at_the_first_micro_step_of_a_resumed_run() -> None:
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source
    assert "self._step = 0" in inspect.getsource(GRPOTrainer.__init__)


def test_deepspeed_writes_and_reads_through_its_checkpoint_engine_alone() -> None:
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
    from deepspeed.runtime.engine import DeepSpeedEngine

    from balcap.training.shards import Safe

    assert CheckpointEngine.__abstractmethods__ == {"create", "save", "load", "commit"}
    assert all(name in vars(Safe) for name in CheckpointEngine.__abstractmethods__)
    for name in ("save_checkpoint", "_save_checkpoint", "_save_zero_checkpoint", "load_checkpoint", "_load_checkpoint"):
        source = inspect.getsource(getattr(DeepSpeedEngine, name))
        assert not re.search(r"torch\.(save|load)\(", source), name
    assert inspect.getsource(DeepSpeedEngine._save_zero_checkpoint).count("self._copy_recovery_script(") == 1
    saved = inspect.signature(DeepSpeedEngine.save_checkpoint).parameters
    assert {"tag", "save_latest", "exclude_frozen_parameters"} <= set(saved)


NESTED = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(3, 2), "none": None}},
    "groups": [{"betas": (0.9, 0.95), "lr": 1e-6, "params": [0, 1], "on": True, "name": "größe"}],
    "random": torch.get_rng_state(),
    ("a", 1): {"set", "of"},
    "empty": {},
}


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.equal(other)
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))  # type: ignore[arg-type]
    return type(one) is type(other) and one == other


def test_nested_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_nested(NESTED, tmp_path / "a/state.safetensors")
    assert same(load_nested(tmp_path / "a/state.safetensors"), NESTED)
    save_nested(NESTED, tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a/state.safetensors").read_bytes()


def test_tensors_that_share_memory_are_written_each_by_itself(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    views = {"a": flat[:4], "b": flat[4:].view(4, 2).t(), "whole": flat, "again": flat, "bf16": flat.bfloat16()}
    save_nested(views, tmp_path / "views.safetensors")
    assert same(load_nested(tmp_path / "views.safetensors"), views)


@pytest.mark.parametrize("odd", [torch.nn.Linear(1, 1), lambda: 0, b"bytes", torch.float32])
def test_what_only_pickle_could_write_is_refused_by_its_place(tmp_path: Path, odd: object) -> None:
    with pytest.raises(TypeError, match=r"state\.groups\.0\.odd: \w+ cannot be written without pickle"):
        save_nested({"groups": [{"odd": odd}]}, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())


def checkpoint(work: Path, step: int) -> Path:
    folder = work / f"checkpoint-{step}"
    for name in ("policy/model.safetensors", "rank-0.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"{step} {name}".encode())
    write(folder, {"ranks": 1, "zero": 0}, hashes(folder, files_of(folder)))
    return folder


def flip(folder: Path) -> None:
    file = folder / "policy/model.safetensors"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(bytes(content))


DAMAGE = {
    "one bit": (flip, "policy/model.safetensors has another sha256"),
    "missing": (lambda folder: (folder / "rank-0.safetensors").unlink(), "rank-0.safetensors is missing"),
    "added": (lambda folder: (folder / "x.pt").touch(), "x.pt is not in manifest.json"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
    "not json": (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    "another json": (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = checkpoint(tmp_path, 8), checkpoint(tmp_path, 16)
    assert newest(tmp_path) == newer and damage(newer) is None and capsys.readouterr().err == ""
    spoil, why = DAMAGE[kind]
    spoil(newer)
    assert newest(tmp_path) == older and checkpoints(tmp_path) == [older, newer]
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {newer} is damaged and not used: ") and why in warning


def test_without_a_good_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "never") is None
    flip(checkpoint(tmp_path, 8))
    assert newest(tmp_path) is None


def test_a_checkpoint_of_other_ranks_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 8)
    check_setting(folder, {"ranks": 1, "zero": 0})
    with pytest.raises(CheckpointError, match=r"written with {'ranks': 1}, and runtime.launch says {'ranks': 2}"):
        check_setting(folder, {"ranks": 2, "zero": 0})
