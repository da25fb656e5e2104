"""Stage `train`: reinforcement learning of the captioner.

python -m steps.train
"""

from __future__ import annotations

from pathlib import Path

import torch

from balcap.files import write_json
from balcap.judge import make_judge
from balcap.llm.base import Mismatch
from balcap.params import Params
from balcap.policy.folder import PolicyError
from balcap.policy.store import save_policy
from balcap.records import Judge
from balcap.records_io import read_questions, read_references, read_samples
from balcap.rewards import needed
from balcap.tracking import Paused
from balcap.training.data import TrainingError
from balcap.training.outputs import summary, write_curves, write_samples
from balcap.training.pause import go_on, waiting
from balcap.training.run import Trained, train
from balcap.training.stopping import Ended
from steps._stage import Stage, StageError, main, stage


def body() -> None:
    """Train, then write captioner and reports."""
    with stage("train") as s:
        torch.set_num_threads(s.params.runtime.threads)
        try:
            go_on(s.work)
            result = train(
                s.params.train,
                Path("models/base"),
                read_samples("data/images"),
                read_references("data/references.parquet"),
                read_questions("data/questions.parquet"),
                s.work,
                s.run,
                _judge(s.params),
            )
        except (TrainingError, Ended, Mismatch, PolicyError) as error:
            if waiting(s.work):
                raise Paused(f"{error}; docs/operate.md says what it means, and how to go on") from None
            raise StageError(str(error)) from None
        publish(s, result)


def _judge(params: Params) -> Judge:
    train = params.train
    return make_judge(train.judge, params.runtime, train.judge_deadline, needed(train.reward_weights))


def publish(s: Stage, result: Trained) -> None:
    """Every output of the stage."""
    history, rewards = result.history, result.rewards
    facts = summary(history.curves, rewards, s.params.train)
    with s.output("models/policy") as tmp:
        save_policy(result.policy, tmp)
    with s.output("reports/train/samples.parquet") as tmp:
        write_samples(tmp, history.samples, rewards)
    with s.output("reports/train/curves.csv") as tmp:
        write_curves(tmp, history.curves, rewards)
    with s.output("reports/train/summary.json") as tmp:
        write_json(tmp, facts)
    s.run.log({f"summary/{name}": value for name, value in facts.items()})
    print(f"mean reward {facts['reward_first']} -> {facts['reward_last']} in {facts['steps']} steps", flush=True)


if __name__ == "__main__":
    main(body)
