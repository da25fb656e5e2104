"""Training of low-rank adapters: what changes, what a checkpoint holds, what is exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world
from safetensors.torch import load_file

from balcap.policy.folder import PolicyError
from balcap.policy.lora import ADAPTERS, lora_config
from balcap.policy.store import load_policy, save_policy
from balcap.training import run as run_room
from balcap.training import trainer as trainer_room
from balcap.training.checkpoint import checkpoints
from balcap.training.run import Trained, train

LORA: dict[str, Any] = {"rank": 4, "alpha": 6, "dropout": 0.0, "targets": ["q_proj", "down_proj", "linear_1"]}
SCALE = 6.0 / 4
SETTINGS: dict[str, Any] = {"lora": LORA, "save_every": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("lora") / "base")


def run(base: Path, work: Path, **changes: Any) -> Trained:
    samples, references = world.data()
    settings = world.settings(**{**SETTINGS, **changes})
    return train(settings, base, samples, references, {}, work, world.Tracked(), world.CountingJudge())


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    work = tmp_path_factory.mktemp("undisturbed")
    return run(base, work), work


def test_the_export_is_the_base_plus_the_scaled_product(
    base: Path, trained: tuple[Trained, Path], tmp_path: Path
) -> None:
    result, work = trained
    last = checkpoints(work)[-1]
    adapters = load_file(last / "policy" / ADAPTERS)
    save_policy(result.policy, tmp_path / "out")
    before, after = load_policy(base).model.state_dict(), load_policy(tmp_path / "out").model.state_dict()
    assert set(before) == set(after)
    layers = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert layers == {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in adapters}
    assert {name.rpartition(".")[2] for name in layers} == set(LORA["targets"])
    assert len(layers) == 2 + 2 + 1 and not [name for name in layers if "vision_tower" in name], "frozen has none"
    for name in layers:
        a, b = (adapters[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        assert b.abs().max() > 0
        expected = before[f"{name}.weight"] + SCALE * b @ a
        torch.testing.assert_close(after[f"{name}.weight"], expected, rtol=0, atol=1e-6)


def test_a_checkpoint_holds_the_adapters_and_not_the_weights(trained: tuple[Trained, Path]) -> None:
    kept = checkpoints(trained[1])[-1]
    assert [p.name for p in (kept / "policy").iterdir()] == [ADAPTERS]
    assert {name.rpartition(".lora_")[2] for name in load_file(kept / "policy" / ADAPTERS)} == {"A.weight", "B.weight"}


def test_resumed_it_ends_as_if_undisturbed(base: Path, trained: tuple[Trained, Path], tmp_path: Path) -> None:
    run(base, tmp_path / "work", steps=2)
    again = run(base, tmp_path / "work")
    whole = trained[0].policy.model.state_dict()
    assert again.history == trained[0].history
    assert all(torch.equal(whole[name], value) for name, value in again.policy.model.state_dict().items())
    with pytest.raises(PolicyError, match=r"not those of train\.lora"):
        run(base, tmp_path / "work", lora={**LORA, "rank": 2}, steps=5)


def test_a_base_that_moved_in_memory_is_not_exported(
    base: Path, trained: tuple[Trained, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it does a little whenever adapters are merged for vLLM and taken out again."""
    export = run_room._exported

    def moved(policy: Any, trainer: Any, *rest: Any) -> Any:
        layers = [p for name, p in trainer.model.named_parameters() if "base_layer" in name]
        with torch.no_grad():
            for weight in layers:
                weight.add_(1.0)
        assert layers
        return export(policy, trainer, *rest)

    monkeypatch.setattr(run_room, "_exported", moved)
    shutil.copytree(trained[1], tmp_path / "work")
    again = run(base, tmp_path / "work").policy.model.state_dict()  # no step is left to do
    assert all(torch.equal(again[name], value) for name, value in trained[0].policy.model.state_dict().items())


def test_the_kl_reference_is_the_model_without_adapters(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    original = trainer_room.CaptionTrainer.__init__

    def keep(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        seen.append(self)

    monkeypatch.setattr(trainer_room.CaptionTrainer, "__init__", keep)
    loss = {"type": "dapo", "clip_low": 0.2, "clip_high": 0.28, "kl": 0.1, "entropy": 0.0}
    run(base, tmp_path / "work", steps=2, loss=loss, gradient_checkpointing=True)
    kl = [row["kl"] for row in seen[0].state.log_history if "kl" in row]
    assert seen[0].ref_model is None and list(seen[0].model.peft_config) == ["default"]
    assert kl[0] < kl[-1] and kl[-1] > 0


def test_layers_that_cannot_have_an_adapter_are_named(base: Path) -> None:
    model = load_policy(base).model

    def targets(*names: str, frozen: tuple[str, ...] = ()) -> Any:
        lora = world.settings(lora={**LORA, "targets": list(names)}).lora
        config = lora_config(model, lora, frozen)
        assert config is not None
        return config.target_modules

    assert len(targets("q_proj")) == 4 and len(targets("q_proj", frozen=("model.vision_tower",))) == 2
    with pytest.raises(PolicyError, match=r"train\.lora\.targets: no linear layer .* 'qkv'; there are: .*q_proj"):
        targets("q_proj", "qkv")
    with pytest.raises(PolicyError, match=r"outside train\.frozen \(model\.vision_tower\) is called 'fc1'"):
        targets("fc1", frozen=("model.vision_tower",))
    with pytest.raises(PolicyError, match="lm_head cannot have an adapter"):
        targets("lm_head")
    assert lora_config(model, None, ()) is None
