"""The training that stage `train` does, in the stage's own process or in one of several.

    python -m steps._rank WORK [JOURNAL]       # started by the stage: work folder, records of the tracked run

Every rank has its slice of each batch and a client of the judge. Rank 0 alone prints, tracks and writes the outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from balcap.files import atomic_path, write_json
from balcap.judge import make_judge
from balcap.params import Params, ParamsError, load_params
from balcap.policy.store import save_policy
from balcap.records import Judge
from balcap.records_io import read_questions, read_references, read_samples
from balcap.rewards import needed
from balcap.tracking import StageRun
from balcap.training.launch import FAULTS
from balcap.training.outputs import summary, write_curves, write_samples
from balcap.training.ranks import is_main, join, run_rank
from balcap.training.run import Trained, train


def train_and_publish(params: Params, work: Path, run: StageRun) -> None:
    """Train; rank 0 writes captioner and reports. Raises one of ``launch.FAULTS``."""
    torch.set_num_threads(params.runtime.threads)
    result = train(
        params.train,
        Path("models/base"),
        read_samples("data/images"),
        read_references("data/references.parquet"),
        read_questions("data/questions.parquet"),
        work,
        run,
        _judge(params),
        params.runtime.launch,
        params.runtime.rollouts,
    )
    if is_main():
        _publish(result, params, run)


def _judge(params: Params) -> Judge:
    train = params.train
    return make_judge(train.judge, "train.judge", params.runtime, train.judge_deadline, needed(train.reward_weights))


def _publish(result: Trained, params: Params, run: StageRun) -> None:
    """Every output of the stage."""
    history, rewards = result.history, result.rewards
    facts = summary(history.curves, rewards, params.train)
    with atomic_path("models/policy") as tmp:
        save_policy(result.policy, tmp)
    with atomic_path("reports/train/samples.parquet") as tmp:
        write_samples(tmp, history.samples, rewards)
    with atomic_path("reports/train/curves.csv") as tmp:
        write_curves(tmp, history.curves, rewards)
    with atomic_path("reports/train/summary.json") as tmp:
        write_json(tmp, facts)
    run.log({f"summary/{name}": value for name, value in facts.items()})
    print(f"mean reward {facts['reward_first']} -> {facts['reward_last']} in {facts['steps']} steps", flush=True)


def body() -> None:
    """One rank."""
    work, *journal = sys.argv[1:]
    params = load_params()
    join(params.runtime.launch)
    train_and_publish(params, Path(work), StageRun.join("train", Path(journal[0]) if journal and is_main() else None))


if __name__ == "__main__":
    run_rank(body, (*FAULTS, ParamsError, OSError))
