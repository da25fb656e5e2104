"""Stage `train`: reinforcement learning of the captioner.

python -m steps.train          # NODE_RANK above 0: one more machine of a job whose first one runs the stage
"""

from __future__ import annotations

from balcap import workspace
from balcap.params import Params, load_params, read_params
from balcap.tracking import Paused
from balcap.training.data import TrainingError
from balcap.training.launch import FAULTS, RankFailed, alone, node_rank, start
from balcap.training.pause import go_on, waiting
from steps._stage import Stage, StageError, main, stage


def body() -> None:
    """Train, in this process or in several that it starts."""
    params = load_params()
    if _machine(params):
        lend(params)
        return
    with stage("train") as s:
        try:
            go_on(s.work)
            _train(s)
        except (*FAULTS, RankFailed) as error:
            if waiting(s.work):
                raise Paused(f"{error}; docs/operate.md says what it means, and how to go on") from None
            raise StageError(str(error)) from None


def _machine(params: Params) -> int:
    try:
        return node_rank(params.runtime.launch)
    except TrainingError as error:
        raise StageError(str(error)) from None


def _train(s: Stage) -> None:
    if alone(s.params.runtime):
        from steps._rank import train_and_publish  # all of TRL, which a stage that starts others does not need

        train_and_publish(s.params, s.work, s.run)
    else:
        _start(s.params, str(s.work), *([str(s.run.journal)] if s.run.journal else []))


def lend(params: Params) -> None:
    """The ranks of a further machine; lock, tracking and outputs are the first machine's."""
    try:
        _start(params, str(workspace.work_root() / "train" / workspace.work_key("train", read_params())))
    except (*FAULTS, RankFailed) as error:
        raise StageError(str(error)) from None


def _start(params: Params, *arguments: str) -> None:
    start(params.runtime, ["-m", "steps._rank", *arguments])


if __name__ == "__main__":
    main(body)
