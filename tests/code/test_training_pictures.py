"""Where pictures and their tokens go: decoded once, never sent between ranks, whole groups, one token each for vLLM."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_world as world
import twins
from accelerate import Accelerator
from PIL import Image
from trainer_world import trainer_of
from trl import GRPOTrainer
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from balcap.params.runtime import Rollouts
from balcap.policy.generate import forbidden_tokens
from balcap.policy.store import load_policy
from balcap.training import data
from balcap.training.config import grpo_config
from balcap.training.trainer import CaptionTrainer, collapse_runs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def trainer(base: Path, tmp_path: Path) -> Iterator[CaptionTrainer]:
    params, policy = world.settings(steps=3), load_policy(base)
    trainer = trainer_of(policy, params, grpo_config(params, tmp_path, forbidden_tokens(policy)), train=12)
    judging = trainer.judging
    yield trainer
    judging.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every picture that was decoded, in order."""
    seen: list[bytes] = []
    decode = data.decode
    monkeypatch.setattr(data, "decode", lambda file: seen.append(file) or decode(file))
    return seen


def test_a_picture_is_decoded_once_per_phase_and_not_at_every_micro_step(
    trainer: CaptionTrainer, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    step = GRPOTrainer.training_step
    monkeypatch.setattr(GRPOTrainer, "training_step", lambda *args: steps.append(1) or step(*args))
    trainer.train()
    assert len(steps) == 3 * 4  # TRL asks for the 16 rows of a phase at each of them
    assert len(decoded) == len(set(decoded)) == 3 * 4  # all phases have different pictures here


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_ranks_each_has_whole_groups_and_decodes_its_own(
    trainer: CaptionTrainer, decoded: list[bytes], monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The loader as rank ``rank`` of two has it: rows [rank * 8, rank * 8 + 8) of the phase's sixteen."""
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    monkeypatch.setattr(Accelerator, "process_index", property(lambda self: rank))
    trainer.args.steps_per_generation, trainer.args.generation_batch_size = 2, 16  # what the two ranks would have
    batches = list(trainer.get_train_dataloader())
    assert len(decoded) == len(set(decoded)) == 3 * 2
    assert [len(batch) for batch in batches] == [8] * 3 * 2  # two micro-steps in each of three phases
    expected = [trainer.train_dataset[i]["image_id"] for i in range(12)]
    for number, batch in enumerate(batches):
        first = 4 * (number // 2) + 2 * rank
        assert [row["image_id"] for row in batch] == [expected[first]] * 4 + [expected[first + 1]] * 4
        assert len({id(row["image"]) for row in batch}) == 2


def test_no_picture_is_among_what_ranks_send_each_other(
    trainer: CaptionTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(grpo_trainer, "gather_object", lambda value: sent.append(value) or value)
    trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert sent[0] == [row["prompt"] for row in trainer._rows]  # without their pictures, which TRL put in
    assert len(pickle.dumps(sent)) < 16 * 500 and b"PIL" not in pickle.dumps(sent)
    assert "PIL" not in repr(trainer._logs["prompt"])


def test_trl_itself_would_send_them() -> None:
    """Why prompts are stripped after the rewards, the last place that reads them."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    _, _, behind = source.partition("self._calculate_rewards(inputs, prompts, completions, completion_ids_list)")
    assert "gather_object(prompts)" in behind and "self.log_multimodal" in behind
    assert behind.count("prompts") == behind.count("len(prompts)") + 2  # a comment and the gathering


def test_runs_of_a_token_collapse() -> None:
    assert collapse_runs([1, 9, 9, 9, 2, 2, 9, 3, 9], 9) == [1, 9, 2, 2, 9, 3, 9]
    assert collapse_runs([], 9) == [] and collapse_runs([2, 2], 9) == [2, 2]


@pytest.mark.parametrize(
    ("use_vllm", "mode", "collapsed"), [(True, "colocate", True), (True, "server", False), (False, "colocate", False)]
)
def test_only_colocated_vllm_gets_one_token_per_picture(
    trainer: CaptionTrainer, monkeypatch: pytest.MonkeyPatch, use_vllm: bool, mode: str, collapsed: bool
) -> None:
    asked: list[Any] = []

    def turn(self: Any, prompt_ids: Any, *args: Any) -> Any:
        asked.append(prompt_ids)
        return [[5, 6]] * 16, [[0.0, 0.0]] * 16

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", turn)
    trainer._rows = next(iter(trainer.get_train_dataloader()))
    trainer.use_vllm, trainer.vllm_mode = use_vllm, mode
    token = trainer.model.config.image_token_id
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": row["image"]}, {"type": "text", "text": "describe"}]}]
        for row in trainer._rows
    ]
    prompt_ids = trainer._generate(prompts)[0]
    trainer.judging.collect()
    expanded = (32 // 16) ** 2
    assert [ids.count(token) for ids in asked[0]] == [1 if collapsed else expanded] * 16
    assert [ids.count(token) for ids in prompt_ids] == [expanded] * 16  # the training pass keeps them


def test_trl_still_hands_expanded_prompts_to_colocated_vllm(
    trainer: CaptionTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl#6294, through TRL's own code down to the engine: when this fails, trl#6718 is in, and collapsing must go."""
    asked: list[Any] = []

    def generate(prompts: Any, **_: Any) -> Any:
        asked.extend(prompts)
        return [SimpleNamespace(prompt_token_ids=[1], outputs=[SimpleNamespace(token_ids=[5], logprobs=None)])]

    said: dict[str, Any] = {}
    monkeypatch.setattr(vllm_generation, "SamplingParams", lambda **options: said.update(options), raising=False)
    monkeypatch.setattr(vllm_generation, "extract_logprobs", lambda outputs: ([[[0.0]]], None))
    engine = SimpleNamespace(
        accelerator=None, temperature=1.0, top_p=1.0, top_k=0, min_p=None, repetition_penalty=1.0, logprobs=0,
        max_completion_length=4, mode="colocate", enable_sleep_mode=False, model=trainer.model,
        generation_kwargs={"logit_bias": {3: -100.0}}, structured_outputs_regex=None, tensor_parallel_size=1,
        llm=SimpleNamespace(generate=generate),
    )  # fmt: skip
    trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, "colocate", 0
    trainer.vllm_generation = SimpleNamespace(generate=lambda **kwargs: VLLMGeneration.generate(engine, **kwargs))
    picture, ids = Image.new("RGB", (4, 4)), [1, *[trainer.model.config.image_token_id] * 3, 2]
    assert GRPOTrainer._generate_single_turn(trainer, [ids], [[picture]], {}, 1) == ([[5]], [[0.0]])
    assert asked == [{"prompt_token_ids": ids, "multi_modal_data": {"image": picture}}]
    assert said["logit_bias"] == {3: -100.0}


@pytest.mark.parametrize("sampler", ["vllm_colocate", "vllm_server"])
def test_placeholders_are_ruled_out_for_vllm_too(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL itself suppresses the picture's token with transformers only; what we give reaches either engine."""
    share, url = (None, "http://127.0.0.1:1") if sampler == "vllm_server" else (0.3, None)
    rollouts = Rollouts(gpu_memory=share, tensor_parallel=1, max_model_length=2048, url=url)
    config = grpo_config(world.settings(sampler=sampler), tmp_path, [3, 4], rollouts=rollouts)
    assert config.use_vllm and config.generation_kwargs == {"logit_bias": {3: -100.0, 4: -100.0}}
    assert "generation_kwargs=args.generation_kwargs" in inspect.getsource(GRPOTrainer.__init__)
    asked: dict[str, Any] = {}

    def generate(**options: Any) -> Any:
        asked.update(options)
        return {"prompt_ids": [[1]], "completion_ids": [[5]], "logprobs": [[[0.0]]]}

    monkeypatch.setattr(vllm_generation, "broadcast_object_list", lambda *args, **_: None)
    server = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, process_index=0), temperature=1.0, top_p=1.0, top_k=0,
        min_p=None, repetition_penalty=1.0, logprobs=0, max_completion_length=4, mode="server",
        structured_outputs_regex=None, generation_kwargs=config.generation_kwargs,
        vllm_client=SimpleNamespace(generate=generate),
    )  # fmt: skip
    VLLMGeneration.generate(server, [[1]], None, 1)
    assert asked["generation_kwargs"] == config.generation_kwargs


@pytest.mark.parametrize(("family", "names"), [("llava", ["<image>"]), ("qwen", ["<|image_pad|>", "<|video_pad|>"])])
def test_the_placeholders_of_every_family_are_known(family: str, names: list[str], tmp_path: Path) -> None:
    policy = load_policy(twins.base(family, tmp_path / family))
    assert {policy.processor.tokenizer.convert_tokens_to_ids(name) for name in names} <= {*forbidden_tokens(policy)}


def test_zeroed_and_truncated_importance_weights_are_counted(trainer: CaptionTrainer) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    trainer.vllm_importance_sampling_clip_max, trainer.vllm_importance_sampling_clip_min = 3.0, None
    tokens = torch.tensor([[0.0, 1.0, 3.0], [0.5, 2.9, 0.0]])
    assert trainer._importance({"importance_sampling_ratio": tokens, "completion_mask": mask}).tolist() == [1, 1, 5]
    rows = torch.tensor([[0.0], [2.0]])
    assert trainer._importance({"importance_sampling_ratio": rows, "completion_mask": mask}).tolist() == [1, 0, 2]
    trainer.vllm_importance_sampling_clip_min = 0.5
    assert trainer._importance({"importance_sampling_ratio": tokens, "completion_mask": mask}).tolist() == [1, 2, 5]
    assert trainer._importance({"completion_mask": mask}).tolist() == [0, 0, 0]


def test_the_entropy_of_a_phase_is_the_mean_that_trl_logs(trainer: CaptionTrainer) -> None:
    trainer.train()
    logged = [row["entropy"] for row in trainer.state.log_history if "entropy" in row]
    assert trainer.measured["policy/entropy"] == pytest.approx(logged[-1])
