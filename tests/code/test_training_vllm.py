"""The trainer and a colocated vLLM, without its engine: what TRL pushes into it, and what seeds its captions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_world as world
import twins
from accelerate import Accelerator
from accelerate.utils import set_seed
from runtime_world import ALONE
from safetensors.torch import load_file
from trl.generation.vllm_generation import VLLMGeneration

from balcap.params.runtime import Launch, Rollouts
from balcap.policy.generate import chat_prompt, forbidden_tokens
from balcap.policy.lora import merged
from balcap.policy.store import load_policy, save_policy
from balcap.records import Picture
from balcap.training.config import grpo_config
from balcap.training.data import dataset
from balcap.training.judging import Judging
from balcap.training.trainer import CaptionTrainer

PREFIXES = {
    "llava": {
        "model.language_model.": "language_model.model.",
        "model.vision_tower.": "vision_tower.",
        "model.multi_modal_projector.": "multi_modal_projector.",
        "lm_head.": "language_model.lm_head.",
    },
    "qwen": {
        "model.language_model.": "language_model.model.",
        "model.visual.": "visual.",
        "lm_head.": "language_model.lm_head.",
        "model.": "language_model.model.",
    },
}
"""``hf_to_vllm_mapper`` of vLLM's LlavaForConditionalGeneration and Qwen2_5_VLForConditionalGeneration (0.32)."""
LORA = {"rank": 4, "alpha": 6, "dropout": 0.0, "targets": ["q_proj", "down_proj"]}


class Engine:
    """Keeps what is loaded into it, where TRL looks for a colocated engine's model."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, torch.Tensor]] = []
        self.resets = 0
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.loaded += [(name, tensor.clone()) for name, tensor in weights]

    def reset_prefix_cache(self) -> None:
        self.resets += 1


def start(self: VLLMGeneration) -> None:
    """What vLLM's worker does in this process when it has started: all generators begin anew."""
    self.llm = Engine()
    set_seed(self.accelerator.process_index // self.tensor_parallel_size)


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., CaptionTrainer]]:
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", start)
    opened: list[Judging] = []

    def made(base: Path, parallel: int = 1, **changes: Any) -> CaptionTrainer:
        params = world.settings(sampler="vllm_colocate", frozen=[], **changes)
        rollouts = Rollouts(gpu_memory=0.3, tensor_parallel=parallel, max_model_length=2048, url=None)
        policy = load_policy(base)
        samples, references = world.data(train=4, held_out=0)
        opened.append(Judging(world.CountingJudge(), params))
        return CaptionTrainer(
            policy,
            params,
            grpo_config(params, tmp_path, forbidden_tokens(policy), Launch.model_validate(ALONE), rollouts),
            dataset(samples, chat_prompt(policy), 4, params.steps, 0),
            {s.image_id: Picture(s, references[s.image_id]) for s in samples},
            opened[-1],
            [],
        )

    yield made
    for judging in opened:
        judging.close()


def in_vllm(family: str, name: str) -> str:
    """What vLLM's mapper makes of a name, of whichever release of transformers."""
    for prefix, new in PREFIXES[family].items():
        if name.startswith(prefix):
            name = new + name.removeprefix(prefix)
    return name


def pushed(trainer: CaptionTrainer, family: str) -> dict[str, torch.Tensor]:
    """What TRL's own synchronisation puts into the engine."""
    trainer.vllm_generation.sync_weights()
    engine = trainer.vllm_generation.llm
    assert engine.resets == 1
    found = {in_vllm(family, name): tensor for name, tensor in engine.loaded}
    assert len(found) == len(engine.loaded)
    return found


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("kind", twins.FAMILIES)
def test_what_is_pushed_is_what_an_export_holds(
    kind: str, adapted: bool, make: Callable[..., CaptionTrainer], tmp_path: Path
) -> None:
    """vLLM reads an export when it starts and pushed weights before each phase; both must have the names it knows."""
    family, base = kind.partition("-")[0], twins.base(kind, tmp_path / kind)
    trainer = make(base, lora=LORA if adapted else None)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    found = pushed(trainer, family)
    policy = merged(load_policy(base), trainer.model) if adapted else trainer.policy
    save_policy(policy, tmp_path / "out")
    exported = {in_vllm(family, name): t for name, t in load_file(tmp_path / "out/model.safetensors").items()}
    assert set(found) == set(exported)
    assert all(torch.allclose(found[name], exported[name], atol=1e-6) for name in exported)
    before = load_file(base / "model.safetensors")
    assert any(not torch.equal(exported[in_vllm(family, name)], tensor) for name, tensor in before.items())
    tower = "vision_tower.vision_model." if family == "llava" else "visual."
    assert sum(name.startswith(tower) for name in found) > 10


def test_trl_still_renames_in_the_one_method_that_is_wrapped() -> None:
    assert list(inspect.signature(VLLMGeneration._fix_param_name_to_vllm).parameters) == [
        "self",
        "name",
        "extra_prefixes",
    ]
    for method in (VLLMGeneration._iter_named_params, VLLMGeneration._iter_fsdp2_params):
        source = inspect.getsource(method)
        assert source.count("self._fix_param_name_to_vllm(name") == source.count("yield name,")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.mark.parametrize(("rank", "parallel", "number"), [(0, 1, 0), (3, 1, 3), (2, 2, 1), (3, 2, 1)])
def test_the_run_s_seed_counts_and_ranks_of_one_engine_draw_alike(
    tiny: Path,
    make: Callable[..., CaptionTrainer],
    monkeypatch: pytest.MonkeyPatch,
    rank: int,
    parallel: int,
    number: int,
) -> None:
    monkeypatch.setattr(Accelerator, "process_index", property(lambda self: rank))
    make(tiny, parallel=parallel, seed=40)
    assert torch.initial_seed() == 40 + number


def test_vllm_is_seeded_by_rank_alone() -> None:
    """Why the trainer seeds again: when this fails, TRL hands the run's seed on."""
    source = inspect.getsource(VLLMGeneration._init_vllm)
    assert "seed=accelerator.process_index // self.tensor_parallel_size," in source
