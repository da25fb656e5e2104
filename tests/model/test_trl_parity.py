"""What TRL documents of GRPO, stated once and held against TRL's own trainer and against ours.

A *case* is a setting and the rewards it is run with; both classes run it for one phase of two updates, from equal
weights and random numbers, with every micro-step recorded. TRL's trainer gets the rewards as reward functions, ours
from its judge, which gives the same numbers: an asynchronous reward is to TRL what the judge is to us. So there are two
questions to each case: does each class do what is documented, and do both learn the same.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import train_world as world
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

from balcap import rewards
from balcap.policy.generate import chat_prompt, forbidden_tokens, to_caption
from balcap.policy.store import Policy, load_policy
from balcap.records import Judgement, Picture
from balcap.training.config import grpo_config
from balcap.training.data import dataset
from balcap.training.judging import Judging
from balcap.training.run import freeze
from balcap.training.trainer import CaptionTrainer

SIZE, LONGEST = 4, 12
NAMES = ("precision", "recall", "linguistic")
LOSSES = ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo")
OPTIMIZER = {**world.SETTINGS["optimizer"], "learning_rate": 0.3, "warmup_steps": 0}


def forgets(judged: list[Judgement]) -> list[Judgement]:
    """A judge that says nothing of the first caption's coverage."""
    return [replace(judged[0], covered=None), *judged[1:]]


@dataclass(frozen=True)
class Case:
    """Changes to ``GRPOConfig`` (as pairs, so that a case can be a key), weights of the rewards, and the judge's fault.

    ``kind`` is how TRL's own trainer gets the rewards: "sync", "async", or "mixed" of both.
    """

    changes: tuple[tuple[str, Any], ...] = ()
    weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    spoil: Callable[[list[Judgement]], Any] | None = None
    kind: str = "sync"
    steps: int = 1


CASES: dict[str, Case] = {
    **{f"{loss}/token": Case((("loss_type", loss),)) for loss in LOSSES},
    **{
        f"{loss}/sequence": Case((("loss_type", loss), ("importance_sampling_level", "sequence")))
        for loss in ("grpo", "dapo", "luspo")
    },
    "kl": Case((("beta", 0.1),)),
    "kl without correction": Case((("beta", 0.1), ("use_bias_correction_kl", False))),
    "truncated masked": Case((("mask_truncated_completions", True),)),
    "weights": Case(weights=(2.0, 0.5, 0.0)),
    "async": Case(kind="async"),
    "mixed": Case(kind="mixed"),
    "unknown": Case(spoil=forgets),
}
BOTH = pytest.mark.parametrize("ours", [False, True], ids=["trl", "balcap"])


@dataclass
class Run:
    """A finished run: per micro-step inputs, log-probabilities [rows, tokens] and loss; gradients of each update."""

    trainer: GRPOTrainer
    steps: list[tuple[dict[str, Any], torch.Tensor, float]] = field(default_factory=list)
    logps: torch.Tensor | None = None
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {k: v.detach() for k, v in self.trainer.model.state_dict().items()}

    @property
    def log(self) -> dict[str, Any]:
        """What TRL logged of the first phase."""
        return self.trainer.state.log_history[0]


def recorded(parent: type[GRPOTrainer], run: Run) -> type[GRPOTrainer]:
    """``parent``, writing down what it does."""

    class Recorded(parent):  # type: ignore[misc, valid-type]
        def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
            run.logps = found[0].detach()
            return found

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            loss = super()._compute_loss(model, inputs)
            assert run.logps is not None
            run.steps.append((dict(inputs), run.logps, loss.item()))
            return loss

        def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
            grads = {k: p.grad.clone() for k, p in self.model.named_parameters() if p.grad is not None}
            run.gradients.append(grads)
            return super()._get_grad_norm(*args, **kwargs)

    return Recorded


def reward_functions(case: Case, policy: Policy, pictures: dict[str, Picture]) -> list[Any]:
    """The judge's rewards as functions of TRL, one per reward, synchronous or not."""
    params = world.settings()

    async def column(k: int, completion_ids: Any, image_id: Any) -> list[float | None]:
        judge, found = world.CountingJudge(case.spoil or (lambda judged: judged)), []
        for start in range(0, len(image_id), SIZE):
            picture = pictures[image_id[start]]
            captions = [to_caption(policy, ids) for ids in completion_ids[start : start + SIZE]]
            judged = await judge.judge_group(picture.sample, picture.reference, captions)
            on = dict.fromkeys(NAMES, 1.0)
            table, _ = rewards.score(judged, captions, picture.reference, (), on, judge.fills, params.length_mask)
            found += [None if np.isnan(value) else float(value) for value in table[:, k]]
        return found

    def function(k: int, name: str) -> Any:
        async def later(completion_ids: Any, image_id: Any, **_: Any) -> Any:
            return await column(k, completion_ids, image_id)

        def now(completion_ids: Any, image_id: Any, **_: Any) -> Any:
            return asyncio.run(column(k, completion_ids, image_id))

        made = later if case.kind == "async" or (case.kind == "mixed" and k == 1) else now
        made.__name__ = name
        return made

    return [function(k, name) for k, name in enumerate(NAMES)]


class World:
    """A freshly initialised captioner and its pictures, and both trainers on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base = folder, world.base(folder / "base")
        samples, references = world.data(train=8)
        self.samples = [s for s in samples if s.split == "train"]
        self.pictures = {s.image_id: Picture(s, references[s.image_id]) for s in self.samples}
        self.run = cache(self.run_afresh)

    def run_afresh(self, case: Case, ours: bool, resume: str | None = None) -> Run:
        """Train as the case says; ``resume`` is a checkpoint of the same run."""
        policy, on = load_policy(self.base), dict(zip(NAMES, case.weights, strict=True))
        params = world.settings(steps=case.steps, optimizer=OPTIMIZER, save_every=1, reward_weights=on)
        work = Path(resume).parent if resume else self.folder / f"run-{len(list(self.folder.iterdir()))}"
        args = self.arguments(grpo_config(params, work, forbidden_tokens(policy)), case)
        rows = dataset(self.samples, chat_prompt(policy), 4, case.steps, 0)
        if ours:
            judging = Judging(world.CountingJudge(case.spoil or (lambda judged: judged)), params)
            run = Run(None)  # type: ignore[arg-type]
            freeze(policy.model, params.frozen)
            run.trainer = recorded(CaptionTrainer, run)(policy, params, args, rows, self.pictures, judging, [])
        else:
            judging, run = None, Run(None)  # type: ignore[arg-type]
            if resume:  # transformers' own loading does not know the names in a LLaVA's checkpoint
                policy = replace(policy, model=AutoModelForImageTextToText.from_pretrained(resume))
            freeze(policy.model, params.frozen)
            run.trainer = recorded(GRPOTrainer, run)(
                policy.model,
                reward_functions(case, policy, self.pictures),
                args,
                train_dataset=rows,
                processing_class=policy.processor,
            )
        run.trainer.train(resume_from_checkpoint=resume)
        if judging:
            judging.close()
        return run

    @staticmethod
    def arguments(config: GRPOConfig, case: Case) -> GRPOConfig:
        """Plain gradient descent, which keeps small differences small; Adam would blow up the least of them."""
        changes = {"optim": "sgd", "multi_objective_aggregation": "normalize_then_sum", **dict(case.changes)}
        return replace(config, generation_batch_size=None, **changes)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    torch.manual_seed(0)
    yield World(tmp_path_factory.mktemp("parity"))


def documented_loss(trainer: GRPOTrainer, inputs: dict[str, Any], logps: torch.Tensor) -> float:
    """The loss of a micro-step by the formulas of TRL's documentation, caption by caption."""
    args, accumulation = trainer.args, trainer.args.gradient_accumulation_steps
    mask, advantages = inputs["completion_mask"].bool(), inputs["advantages"].tolist()
    low, high = 1 - args.epsilon, 1 + args.epsilon_high
    means, sums, tokens = [], [], 0
    for i, a in enumerate(advantages):
        new, old = logps[i][mask[i]].double(), inputs["old_per_token_logps"][i][mask[i]].double()
        ratio = (
            (new - old).exp()
            if args.importance_sampling_level == "token"
            else (new - old).mean().exp().expand(len(new))
        )
        if args.loss_type == "cispo":
            value = -ratio.clamp(max=args.epsilon_high) * a * new
        elif args.loss_type == "sapo":
            heat = args.sapo_temperature_pos if a > 0 else args.sapo_temperature_neg
            value = -a * 4 / heat * torch.sigmoid(heat * (ratio - 1))
        elif args.loss_type == "vespo":
            k, heat = (args.vespo_k_pos, args.vespo_lambda_pos) if a >= 0 else (args.vespo_k_neg, args.vespo_lambda_neg)
            w = float((new - old).sum().exp())
            value = -(math.exp(heat) * w**k * math.exp(-heat * w)) * a * new
        else:
            value = -torch.minimum(ratio * a, ratio.clamp(low, high) * a)
        if args.beta:
            away = inputs["ref_per_token_logps"][i][mask[i]].double() - new
            value = value + args.beta * (away.exp() - away - 1) * (ratio if args.use_bias_correction_kl else 1.0)
        sums.append(float(value.sum()))
        means.append(float(value.sum()) / max(len(new), 1))
        tokens += len(new)
    return {
        "grpo": np.mean(means) / accumulation,
        "sapo": np.mean(means) / accumulation,
        "bnpo": sum(sums) / max(tokens, 1) / accumulation,
        "dr_grpo": sum(sums) / (len(sums) * LONGEST) / accumulation,
        "luspo": np.mean(sums) / accumulation,
    }.get(args.loss_type, sum(sums) / (float(inputs["num_items_in_batch"]) * accumulation / args.steps_per_generation))


@BOTH
@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_documented_one(both: World, name: str, ours: bool) -> None:
    run = both.run(CASES[name], ours)
    assert len(run.steps) == 4
    for inputs, logps, loss in run.steps:
        assert loss == pytest.approx(documented_loss(run.trainer, inputs, logps), rel=1e-4, abs=1e-7)
    ratios = (run.steps[-1][1] - run.steps[-1][0]["old_per_token_logps"]).abs().max()
    assert ratios > 1e-3  # the second update is off policy, so that the ratios matter


@pytest.mark.parametrize("name", CASES)
def test_both_classes_learn_the_same(both: World, name: str) -> None:
    theirs, ours = both.run(CASES[name], False), both.run(CASES[name], True)
    before = load_policy(both.base).model.state_dict()
    moved = max((theirs.weights[k] - before[k]).abs().max() for k in before)
    apart = max((theirs.weights[k] - ours.weights[k]).abs().max() for k in before)
    assert moved > 1e-3 and apart < 1e-3 * moved
    for key in ("rewards/precision/mean", "rewards/linguistic/std", "completions/clipped_ratio", "entropy"):
        assert theirs.log[key] == pytest.approx(ours.log[key], rel=1e-5)


@BOTH
def test_without_a_kl_term_there_is_no_reference_and_with_one_it_stays_the_base(both: World, ours: bool) -> None:
    without, with_kl = both.run(CASES["dapo/token"], ours), both.run(CASES["kl"], ours)
    assert without.trainer.ref_model is None and "kl" not in without.log
    assert with_kl.log["kl"] > 0.0
    before = load_policy(both.base).model.state_dict()
    reference = with_kl.trainer.ref_model.state_dict()
    assert all(torch.equal(before[k], reference[k]) for k in before)
    assert with_kl.steps[0][0]["ref_per_token_logps"] == pytest.approx(with_kl.steps[0][1], abs=1e-5)


@BOTH
def test_masked_truncated_captions_give_no_loss_and_are_still_judged(both: World, ours: bool) -> None:
    run = both.run(CASES["truncated masked"], ours)
    trainer, ends = run.trainer, run.trainer.processing_class.tokenizer.eos_token_id
    inputs = {k: v for k, v in run.steps[0][0].items()}
    cut = ~(inputs["completion_ids"] == ends).any(dim=1)
    assert cut.any() and not cut.all() and not inputs["completion_mask"][cut].any()
    loss = trainer._compute_loss(trainer.model, inputs).item()
    worse = inputs["advantages"].where(~cut, torch.tensor(100.0))
    assert trainer._compute_loss(trainer.model, inputs | {"advantages": worse}).item() == loss
    assert inputs["advantages"][cut].any()  # they have advantages, and moved those of their group
    assert run.log["completions/clipped_ratio"] > 0.0
    same = both.run(CASES["dapo/token"], ours)
    assert run.log["rewards/precision/mean"] == same.log["rewards/precision/mean"]


@BOTH
def test_weights_decide_what_counts(both: World, ours: bool) -> None:
    """Normalised, then weighted: a weight of 0 takes a reward out, though it is judged and logged."""
    run = both.run(CASES["weights"], ours)
    table = np.array([list(run.trainer._logs["rewards"][name]) for name in NAMES]).reshape(3, -1, SIZE)
    spread = table.std(axis=2, ddof=1, keepdims=True)
    z = (table - table.mean(axis=2, keepdims=True)) / (spread + 1e-4)
    total = (z * np.array([2.0, 0.5, 0.0])[:, None, None]).sum(axis=0).ravel()
    expected = (total - total.mean()) / (total.std(ddof=1) + 1e-4)
    found = torch.cat([inputs["advantages"] for inputs, *_ in run.steps])
    assert sorted(found.tolist()) == pytest.approx(sorted(expected.tolist()), abs=1e-4)
    means = [run.log[f"rewards/{name}/mean"] for name in NAMES]
    assert table[2].std() > 0 and run.log["reward"] == pytest.approx(2.0 * means[0] + 0.5 * means[1], rel=1e-5)


def test_synchronous_and_asynchronous_rewards_are_the_same_to_trl(both: World) -> None:
    first, *others = (both.run(CASES[name], False).weights for name in ("dapo/token", "async", "mixed"))
    assert all(torch.equal(first[k], other[k]) for other in others for k in first)


@BOTH
def test_an_unknown_reward_is_neutral(both: World, ours: bool) -> None:
    run = both.run(CASES["unknown"], ours)
    column = np.array(list(run.trainer._logs["rewards"]["recall"])).reshape(-1, SIZE)
    known = column[~np.isnan(column)]
    assert np.isnan(column[:, 0]).sum() >= 1 and not np.isnan(column[:, 1:]).any()
    assert run.log["rewards/recall/mean"] == pytest.approx(known.mean(), rel=1e-5)
    assert all(inputs["advantages"].isfinite().all() for inputs, *_ in run.steps)


@BOTH
@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo"])
def test_accumulation_equals_a_large_batch(both: World, ours: bool, loss: str) -> None:
    """Batch 8 and batch 1 with eight accumulations: the gradients of the first update, before clipping."""
    pair = []
    for batch in (8, 1):
        shape = {"per_device_train_batch_size": batch, "steps_per_generation": 16 // batch}
        changes = {**shape, "gradient_accumulation_steps": 8 // batch, "loss_type": loss, "max_grad_norm": 0.0}
        pair.append(both.run_afresh(Case(tuple(changes.items())), ours))
    large, small = (run.gradients[0] for run in pair)
    assert len(pair[0].steps) == 2 and len(pair[1].steps) == 16 and large
    for name, gradient in large.items():
        assert (gradient - small[name]).norm() <= 1e-5 * gradient.norm() + 1e-9, name


@BOTH
def test_a_resumed_run_ends_where_an_undisturbed_one_does(both: World, ours: bool) -> None:
    whole = both.run_afresh(Case(steps=2), ours)
    part = str(Path(whole.trainer.args.output_dir) / "checkpoint-2")
    resumed = both.run_afresh(Case(steps=2), ours, resume=part)
    assert len(whole.steps) == 8 and len(resumed.steps) == 4
    assert all((whole.weights[k] - resumed.weights[k]).abs().max() < 1e-5 for k in whole.weights)
    assert [loss for *_, loss in resumed.steps] == pytest.approx([loss for *_, loss in whole.steps[4:]], abs=1e-5)
