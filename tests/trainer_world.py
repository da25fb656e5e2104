"""Our trainer over the pictures of ``train_world``, judged by words."""

from __future__ import annotations

from collections.abc import Sequence

import train_world as world
from transformers import TrainerCallback
from trl import GRPOConfig

from balcap.params.train import Train
from balcap.policy.generate import chat_prompt
from balcap.policy.store import Policy
from balcap.records import Picture
from balcap.training.data import dataset
from balcap.training.judging import Judging
from balcap.training.trainer import CaptionTrainer


def trainer_of(
    policy: Policy, params: Train, config: GRPOConfig, train: int = 6, callbacks: Sequence[TrainerCallback] = ()
) -> CaptionTrainer:
    """A trainer of ``policy`` on ``train`` pictures; its judging is to be closed."""
    samples, references = world.data(train, held_out=0)
    return CaptionTrainer(
        policy,
        params,
        config,
        dataset(samples, chat_prompt(policy), params.global_batch_size // params.group_size, params.steps, 0),
        {s.image_id: Picture(s, references[s.image_id]) for s in samples},
        Judging(world.CountingJudge(), params),
        list(callbacks),
    )
