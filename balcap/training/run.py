"""The entry of reinforcement learning: data, judge, captioner and TRL's trainer, resumed where an earlier run ended.

    result = train(params.train, Path("models/base"), samples, references, questions, work, run, judge)
    save_policy(result.policy, Path("models/policy"))

Equal parameters, data and threads give equal weights, on one machine; a run that was killed goes on from its last
checkpoint at the boundary of a generation phase and ends with the same weights as an undisturbed one.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model

from balcap.llm.background import Background
from balcap.params.runtime import Launch, Rollouts
from balcap.params.train import Train
from balcap.policy.generate import chat_prompt, forbidden_tokens
from balcap.policy.lora import merged
from balcap.policy.store import Policy, load_policy, quiet
from balcap.records import Judge, Picture, Question, Reference, Sample
from balcap.rewards import bind
from balcap.training.callbacks import History, Reporter, Tracker
from balcap.training.config import ONE_PROCESS, grpo_config
from balcap.training.data import TrainingError, dataset, with_reference
from balcap.training.deepspeed import check_engine, plain_loading, weights_dtype
from balcap.training.health import Health
from balcap.training.judging import Judging
from balcap.training.manifest import newest
from balcap.training.ranks import from_main, is_main
from balcap.training.trainer import CaptionTrainer

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Trained:
    """The trained captioner, and the rows of the curves and samples of all its steps."""

    policy: Policy
    history: History
    rewards: tuple[str, ...]


def train(
    params: Train,
    base: Path,
    samples: Iterable[Sample],
    references: Mapping[str, Reference],
    questions: Mapping[str, tuple[Question, ...]],
    work: Path,
    run: Tracker,
    judge: Judge,
    launch: Launch = ONE_PROCESS,
    rollouts: Rollouts | None = None,
) -> Trained:
    """Train the captioner of folder ``base`` on the ``train`` pictures; shows the ``eval`` ones as it goes.

    ``work`` holds the checkpoints; ``judge`` is closed at the end. With several ranks each calls this, in a process
    group that exists (``ranks.join``); what it returns and tells ``run`` counts on rank 0. Raises
    :class:`TrainingError`, ``JudgeFailed`` or ``PolicyError``.
    """
    _check_judge_serves(params, judge)
    everything = list(samples)
    pictures = with_reference([s for s in everything if s.split == "train"], references, questions, 1, "training")
    held_out = with_reference([s for s in everything if s.split != "train"], references, questions, 1, "held-out")
    policy = load_policy(base, dtype=weights_dtype(params, launch))
    freeze(policy.model, params.frozen)
    done = from_main(lambda: newest(work))  # hashing it once is enough
    history = History.read(done) if done else History()
    judging = Judging(judge, params)
    shown = held_out[-params.sample_images :]
    reporter = Reporter(params, judging, shown, history, run)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL's use of names that transformers is about to drop
            trainer = make_trainer(params, policy, pictures, judging, reporter, work, launch, rollouts)
            with trainer.sigterm:
                trainer.train(resume_from_checkpoint=str(done) if done else None)
                trainer.stop_if_asked()
    finally:
        judging.close()
    policy = _exported(policy, trainer, base, launch)
    policy.model.eval()
    return Trained(policy, history, judging.names)


def _exported(policy: Policy, trainer: CaptionTrainer, base: Path, launch: Launch) -> Policy:
    """The trained captioner in one piece. With adapters, or where no rank has it all (ZeRO-3), a new one on rank 0."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    sharded, adapted = trainer.zero_stage == 3, is_peft_model(model)
    weights = trainer.gathered()
    if not (sharded or adapted) or not is_main():
        return policy
    plain_loading()
    whole = load_policy(base, dtype=weights_dtype(trainer.params, launch))
    if adapted:
        return merged(whole, model, weights)
    whole.model.load_state_dict(weights)
    return whole


def make_trainer(
    params: Train,
    policy: Policy,
    pictures: list[Picture],
    judging: Judging,
    reporter: Reporter,
    work: Path,
    launch: Launch = ONE_PROCESS,
    rollouts: Rollouts | None = None,
) -> CaptionTrainer:
    """TRL's trainer on ``pictures``, reporting through ``reporter``, whose history goes into every checkpoint."""
    per_step = params.global_batch_size // params.group_size
    health = Health(params, judging.names, reporter.history, reporter.run, work)
    torch.manual_seed(params.seed)  # new adapters begin at random, before TRL sets its seed
    trainer = CaptionTrainer(
        policy,
        params,
        grpo_config(params, work, forbidden_tokens(policy), launch, rollouts),
        dataset([picture.sample for picture in pictures], chat_prompt(policy), per_step, params.steps, params.seed),
        {picture.sample.image_id: picture for picture in pictures},
        judging,
        [reporter, health],
    )
    check_engine(trainer, launch)
    reporter.trainer = health.trainer = trainer
    trainer.extra_state = reporter.history.write
    return trainer


def freeze(model: torch.nn.Module, prefixes: Iterable[str]) -> None:
    """Leave the parameters whose names start with one of ``prefixes`` untrained."""
    for prefix in prefixes:
        found = [p for name, p in model.named_parameters() if name == prefix or name.startswith(f"{prefix}.")]
        if not found:
            raise TrainingError(f"train.frozen: no parameter of the captioner lies under {prefix!r}")
        for parameter in found:
            parameter.requires_grad_(False)


def _check_judge_serves(params: Train, judge: Judge) -> None:
    """A reward that the judge can never give would be unknown for ever; one that is away, from the first step on."""
    with Background() as loop:
        if why := _cannot_give(params, judge) or _not_ready(loop, judge):
            with suppress(TimeoutError):
                loop.run(judge.close(), READY_SECONDS)
            raise TrainingError(why)


def _cannot_give(params: Train, judge: Judge) -> str:
    """Which reward the judge can never give; nothing if it can give all."""
    bound = bind(judge.fills)
    for name in params.reward_weights:
        if not bound[name].needs <= judge.fills:
            return (
                f"train.reward_weights.{name}: judge {judge.name} cannot give what this reward needs; "
                "leave the reward out or name another judge"
            )
    return ""


def _not_ready(loop: Background, judge: Judge) -> str:
    """Why the judge cannot begin; nothing if it can."""
    try:
        why = loop.run(judge.ready(), READY_SECONDS)
    except TimeoutError:
        why = f"{judge.name} did not say within {READY_SECONDS:g} s whether it can judge; look at its endpoint"
    return f"train.judge: {why}" if why else ""
