"""What our trainer assumes of TRL 1.16 and transformers, per overridden method: fails when upstream moves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world
import trl
from trainer_world import trainer_of
from transformers import Trainer
from trl import GRPOTrainer

from balcap.policy.generate import forbidden_tokens, to_caption
from balcap.policy.store import load_policy
from balcap.training.checkpoint import Checkpointed
from balcap.training.config import grpo_config
from balcap.training.judging import Judging
from balcap.training.survival import Surviving
from balcap.training.trainer import CaptionTrainer


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture
def trainer(base: Path, tmp_path: Path) -> Iterator[CaptionTrainer]:
    params, policy = world.settings(), load_policy(base)
    trainer = trainer_of(policy, params, grpo_config(params, tmp_path, forbidden_tokens(policy)))
    judging = trainer.judging
    yield trainer
    judging.close()


def batch(trainer: CaptionTrainer) -> list[dict[str, Any]]:
    return next(iter(trainer.get_train_dataloader()))


def test_the_release_is_the_pinned_one() -> None:
    assert trl.__version__.startswith("1.16.")


SIGNATURES = {
    (GRPOTrainer, "training_step"): ["self", "model", "inputs", "num_items_in_batch"],
    (GRPOTrainer, "_generate_single_turn"): [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    (GRPOTrainer, "_calculate_rewards"): ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    (GRPOTrainer, "_generate_and_score_completions"): ["self", "inputs"],
    (GRPOTrainer, "_save_checkpoint"): ["self", "model", "trial"],
    (Trainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (Trainer, "_prepare_for_training"): ["self", "max_steps", "train_dataloader", "resume_from_checkpoint"],
    (Trainer, "_load_rng_state"): ["self", "checkpoint"],
    (Trainer, "_get_grad_norm"): ["self", "model", "grad_norm"],
}


OVERRIDDEN = {*vars(CaptionTrainer), *vars(Surviving), *vars(Checkpointed)}


@pytest.mark.parametrize(("owner", "name"), SIGNATURES)
def test_signatures(owner: type, name: str) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == SIGNATURES[owner, name]
    assert name in OVERRIDDEN


def test_nothing_else_is_overridden() -> None:
    upstream = {name for name in OVERRIDDEN if hasattr(GRPOTrainer, name) and not name.startswith("__")}
    assert upstream == {name for _, name in SIGNATURES} | {"_get_per_token_logps_and_entropies"}


def test_our_own_names_hide_none_of_theirs(trainer: CaptionTrainer) -> None:
    source = inspect.getsource(GRPOTrainer) + inspect.getsource(Trainer)
    own = ["policy", "params", "judging", "pictures", "rule", "clock", "measured", "extra_state"]
    own += ["_rows", "_scored", "_phase", "_kept_step", "_finite", "sigterm"]
    own += [name for name in OVERRIDDEN if not hasattr(GRPOTrainer, name) and not name.startswith("__")]
    assert all(hasattr(trainer, name) for name in own)
    assert not [name for name in own if re.search(rf"self\.{name}\b", source)]


def test_groups_lie_together_in_the_order_of_the_data(trainer: CaptionTrainer) -> None:
    rows = batch(trainer)
    ids = [row["image_id"] for row in rows]
    assert len(rows) == 16
    assert [ids[i] for i in range(0, 16, 4)] == trainer.train_dataset[:4]["image_id"]
    assert all(len(set(ids[i : i + 4])) == 1 for i in range(0, 16, 4))
    assert rows[0]["image"] is rows[3]["image"]  # decoded once per group


def test_generation_comes_before_log_probabilities_before_rewards() -> None:
    """Judging overlaps with what lies between ``_generate_single_turn`` and ``_calculate_rewards``."""
    assert "self._generate_single_turn(" in inspect.getsource(GRPOTrainer._generate)
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    calls = ["self._generate(", "self._get_per_token_logps_and_entropies(", "self._calculate_rewards("]
    places = [source.index(call) for call in calls]
    assert places == sorted(places)


def test_a_turn_returns_the_completions_first(trainer: CaptionTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs: list[Any] = []
    turn = GRPOTrainer._generate_single_turn
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda *args: theirs.append(turn(*args)) or theirs[-1])
    trainer._rows = batch(trainer)
    prompts = [
        [{"role": "user", "content": [{"type": "image", "image": row["image"]}, {"type": "text", "text": "describe"}]}]
        for row in trainer._rows
    ]
    output = trainer._generate(prompts)
    [(completions, logps)] = theirs
    judged = [caption.text for group in trainer.judging._groups for caption in group.captions]
    assert judged == [to_caption(trainer.policy, ids).text for ids in completions] and logps is None
    trainer.judging.collect()
    assert output[1] == completions and len(completions) == 16
    assert all(isinstance(ids, list) and 1 <= len(ids) <= 12 for ids in completions)
    end = trainer.policy.processor.tokenizer.eos_token_id
    assert all(end not in ids[:-1] for ids in completions)  # the end token is kept, nothing behind it


def test_our_advantages_replace_theirs_and_old_log_probabilities_exist(trainer: CaptionTrainer) -> None:
    output = trainer._generate_and_score_completions(batch(trainer))
    assert output["advantages"].shape == (16,) and output["advantages"].dtype == torch.float32
    assert output["old_per_token_logps"].shape == output["completion_ids"].shape  # two updates per phase need them
    ours = trainer._advantages()
    assert output["advantages"].tolist() == pytest.approx(ours.tolist(), abs=1e-6)
    spent = trainer.clock.take()
    assert spent["generate"] > 0 and spent["logprobs"] > 0 and "judge_exposed" in spent and "update" not in spent


@pytest.mark.parametrize(("rewards", "column"), [(("recall", "linguistic", "precision"), 2), (("recall",), None)])
def test_the_rule_knows_which_column_the_mask_acts_on(
    trainer: CaptionTrainer, rewards: tuple[str, ...], column: int | None
) -> None:
    trainer._rows = batch(trainer)
    trainer.params = world.settings(reward_weights=dict.fromkeys(rewards, 1.0))
    trainer.judging = Judging(world.CountingJudge(), trainer.params)  # the fixture closes the one before
    trainer.judging.dispatch(trainer._groups([[5]] * 16))
    trainer._scored = trainer.judging.collect()
    asked: list[int | None] = []

    def rule(values: Any, masked: Any, size: int, weights: Any, linguistic: int | None) -> Any:
        asked.append(linguistic)
        return values[:, 0]

    trainer.rule = rule
    trainer._advantages()
    assert asked == [column]
    trainer.judging.close()


def test_rewards_are_those_of_the_judge(trainer: CaptionTrainer) -> None:
    trainer._generate_and_score_completions(batch(trainer))
    logged = trainer._logs["rewards"]
    assert list(logged) == ["precision", "recall", "linguistic"]
    for k, name in enumerate(logged):
        ours = [value for scored in trainer._scored for value in scored.rewards[:, k]]
        assert list(logged[name]) == pytest.approx(ours, abs=1e-6)


def logits_that_want(trainer: CaptionTrainer, token: int) -> Any:
    """Make the model prefer one token above all others."""

    def push(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        output[..., token] += 1e4
        return output

    return trainer.model.lm_head.register_forward_hook(push)


@pytest.mark.parametrize("by_trl_alone", [True, False])
def test_the_image_token_is_never_sampled(trainer: CaptionTrainer, by_trl_alone: bool, base: Path) -> None:
    token = trainer.model.config.image_token_id
    if by_trl_alone:
        args = trainer.args
        args.generation_kwargs = args.reward_weights = None
        plain = GRPOTrainer(
            model=trainer.model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=trainer.train_dataset,
            processing_class=trainer.policy.processor,
        )
        suppressed = plain.generation_config.suppress_tokens
        trainer.generation_config, trainer.generation_kwargs = plain.generation_config, plain.generation_kwargs
        assert suppressed == [token]
    handle = logits_that_want(trainer, token)
    try:
        output = trainer._generate_and_score_completions(batch(trainer))
    finally:
        handle.remove()
    assert not (output["completion_ids"] == token).any()
    if not by_trl_alone:
        assert set(trainer.generation_config.suppress_tokens) == set(forbidden_tokens(trainer.policy))


def test_transformers_would_not_load_a_llava_checkpoint(trainer: CaptionTrainer, tmp_path: Path) -> None:
    """Why ``_load_from_checkpoint`` is ours: saved names differ from the module's, and its loading is not strict."""
    from safetensors.torch import load_file

    trainer.model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved/model.safetensors")
    assert not set(saved) & set(trainer.model.state_dict())


def test_a_checkpoint_brings_the_weights_back(trainer: CaptionTrainer, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer._write_model(tmp_path / "saved/policy", None)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(1.0)
    trainer._load_from_checkpoint(str(tmp_path / "saved"))
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
