"""Alarms of whole small runs: each provoked by a judge that rewards the wrong thing; paused, stopped and resumed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world

from balcap.hashing import dir_md5
from balcap.policy.store import save_policy
from balcap.records import Assertion, Judgement
from balcap.training import pause
from balcap.training.callbacks import History
from balcap.training.checkpoint import Checkpointed
from balcap.training.health import Health
from balcap.training.run import Trained, train

LONGEST = 40
"""Tokens: most captions of the untrained captioner end before, some 20 words long."""
SHORT = 4
Spoil = Callable[[list[Judgement]], list[Judgement]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(autouse=True)
def outside_of_flows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("BALCAP_FLOW_RUN_ID", "DVC_EXP_NAME", pause.RESUME):
        monkeypatch.delenv(name, raising=False)
    yield


def alarms(action: str = "warn", window: int = 2, **limits: float) -> dict[str, Any]:
    return {"window": window, "when": {name: {"limit": limit, "action": action} for name, limit in limits.items()}}


def run(
    base: Path, work: Path, judge: world.CountingJudge | None = None, tracked: Any = None, **changes: Any
) -> Trained:
    """As the stage does it: what is waiting is accepted, then training goes on."""
    pause.go_on(work)
    samples, references = world.data()
    params = world.settings(**{"samples_every": 100, **changes})
    return train(
        params, base, samples, references, {}, work, tracked or world.Tracked(), judge or world.CountingJudge()
    )


def weights(result: Trained, folder: Path) -> str:
    save_policy(result.policy, folder)
    return dir_md5(folder)


def told(tracked: world.Tracked) -> dict[str, int | None]:
    """Alarms that reached MLflow, with the step of the first sound."""
    found: dict[str, int | None] = {}
    for step, metrics in tracked.logged:
        for name in metrics:
            if name.startswith("alarm/"):
                found.setdefault(name, step)
    return found


def covers_nothing(judged: list[Judgement]) -> list[Judgement]:
    return [replace(j, covered=tuple(False for _ in j.covered or ())) for j in judged]


def forgets(judged: list[Judgement]) -> list[Judgement]:
    return [replace(j, covered=None) for j in judged]


def likes_it_short(judged: list[Judgement]) -> list[Judgement]:
    """All of a short caption is true, nothing of a long one; the longer it is, the more it covers."""

    def one(judgement: Judgement) -> Judgement:
        said = judgement.assertions or ()
        short = len(said) <= SHORT
        return replace(
            judgement,
            assertions=tuple(Assertion(a.text, short, True) for a in said),
            covered=tuple(len(said) > SHORT * i for i in range(len(judgement.covered or ()))),
        )

    return list(map(one, judged))


@pytest.mark.parametrize(
    ("spoil", "limits", "expected"),
    [(covers_nothing, {"dead": 0.95}, "dead"), (forgets, {"unknown": 0.1}, "unknown")],
)
def test_a_judge_that_says_nothing_about_recall(
    base: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Spoil,
    limits: dict[str, float],
    expected: str,
) -> None:
    tracked = world.Tracked()
    result = run(base, tmp_path, world.CountingJudge(spoil), tracked, steps=3, alarms=alarms(**limits))
    assert len(result.history.curves) == 3, "a warning stops nothing"
    assert told(tracked) == {f"alarm/{expected}/recall": 2}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1 and said[0].startswith(f"warning: alarm {expected} at step 2: ") and "recall" in said[0]


def test_a_judge_that_likes_it_short(base: Path, tmp_path: Path) -> None:
    """Precision rises because captions shrink, and recall falls with them."""
    settings: dict[str, Any] = {
        "steps": 24,
        "reward_weights": {"precision": 1.0},
        "sampling": {**world.SETTINGS["sampling"], "max_new_tokens": LONGEST},
        "save_every": 100,
    }
    tracked = world.Tracked()
    watched = alarms(window=4, length=1.5, trade=0.1, unknown=0.1)
    result = run(base, tmp_path, world.CountingJudge(likes_it_short), tracked, alarms=watched, **settings)
    rows = result.history.curves
    assert set(told(tracked)) == {"alarm/length", "alarm/trade/recall"}, [
        (row["length/words"], row["reward/precision/mean"], row["quality/recall"]) for row in rows
    ]


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(base, tmp_path_factory.mktemp("undisturbed"), world.CountingJudge(covers_nothing))


def test_a_paused_run_goes_on_exactly_once_it_is_accepted(base: Path, tmp_path: Path, undisturbed: Trained) -> None:
    watched = alarms("pause", dead=0.95)
    judge = world.CountingJudge(covers_nothing)
    with pytest.raises(pause.AlarmPaused, match=r"alarm dead at step 2: 100\.0% .* recall .*; checkpoint-4 is kept"):
        run(base, tmp_path / "work", judge, alarms=watched, save_every=100)
    (sound,) = pause.waiting(tmp_path / "work")
    assert (sound.alarm, sound.subject, sound.step, sound.value) == ("dead", "recall", 2, 1.0)
    judge = world.CountingJudge(covers_nothing)
    tracked = world.Tracked()
    resumed = run(base, tmp_path / "work", judge, tracked, alarms=watched, save_every=100)
    assert not pause.waiting(tmp_path / "work") and not told(tracked), "it has not been silent since"
    assert resumed.history.curves == undisturbed.history.curves
    assert weights(resumed, tmp_path / "a") == weights(undisturbed, tmp_path / "b")


def test_killed_between_checkpoint_and_marker_it_pauses_when_it_is_started_again(
    base: Path, tmp_path: Path, undisturbed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    watched: dict[str, Any] = {"alarms": alarms("pause", dead=0.95), "save_every": 100}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pause, "mark", killed)
        run(base, tmp_path, world.CountingJudge(covers_nothing), **watched)
    judge = world.CountingJudge(covers_nothing)
    with pytest.raises(pause.AlarmPaused, match=r"alarm dead at step 2: .*checkpoint-4 is kept"):
        run(base, tmp_path, judge, **watched)
    assert pause.waiting(tmp_path) and not judge.groups, "without a step more"
    resumed = run(base, tmp_path, world.CountingJudge(covers_nothing), **watched)
    assert resumed.history.curves == undisturbed.history.curves


def test_without_its_checkpoint_nothing_is_paused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    watched: dict[str, Any] = {"alarms": alarms("pause", dead=0.95), "save_every": 100}
    with monkeypatch.context() as patch, pytest.raises(OSError, match="free some space and run again"):
        patch.setattr(Checkpointed, "_write", full)
        run(base, tmp_path, world.CountingJudge(covers_nothing), **watched)
    assert not pause.waiting(tmp_path), "it failed"
    with pytest.raises(pause.AlarmPaused, match="checkpoint-4 is kept"):
        run(base, tmp_path, world.CountingJudge(covers_nothing), **watched)


def test_an_alarm_that_pauses_is_not_lost_in_a_step_that_another_one_stops(base: Path, tmp_path: Path) -> None:
    """What is unknown is dead, too: both alarms sound in step 2."""
    when = {"dead": {"limit": 0.95, "action": "stop"}, "unknown": {"limit": 0.1, "action": "pause"}}
    with pytest.raises(pause.AlarmStopped, match=r"alarm dead at step 2: .*checkpoint-4 is kept"):
        run(base, tmp_path, world.CountingJudge(forgets), alarms={"window": 2, "when": when})
    assert not pause.waiting(tmp_path), "it failed"
    when["dead"]["action"] = "warn"
    judge = world.CountingJudge(forgets)
    with pytest.raises(pause.AlarmPaused, match=r"alarm unknown at step 2: .*checkpoint-4 is kept"):
        run(base, tmp_path, judge, alarms={"window": 2, "when": when})
    assert [sound.alarm for sound in pause.waiting(tmp_path)] == ["unknown"] and not judge.groups
    tracked = world.Tracked()
    result = run(base, tmp_path, world.CountingJudge(forgets), tracked, alarms={"window": 2, "when": when})
    assert len(result.history.curves) == 4 and not told(tracked)


def test_one_alarm_about_two_rewards_is_two_metrics(base: Path, tmp_path: Path) -> None:
    def forgets_half(judged: list[Judgement]) -> list[Judgement]:
        return [replace(j, assertions=None, covered=None) if i % 2 else j for i, j in enumerate(judged)]

    tracked = world.Tracked()
    run(base, tmp_path, world.CountingJudge(forgets_half), tracked, steps=3, alarms=alarms(unknown=0.02))
    assert told(tracked) == {"alarm/unknown/precision": 2, "alarm/unknown/recall": 2}


def test_all_ranks_know_what_the_first_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk over the network they may read at different moments; what they decide is done together."""

    def told_by_the_first(objects: list[Any]) -> None:
        objects[:] = [{("dead", "recall", 2)}]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", told_by_the_first)
    health = Health(world.settings(), ("recall",), History(), world.Tracked(), tmp_path)
    assert health.accepted == {("dead", "recall", 2)}


def test_a_stopped_run_fails_again_until_it_is_allowed_to_go_on(
    base: Path, tmp_path: Path, undisturbed: Trained
) -> None:
    judge = world.CountingJudge(covers_nothing)
    with pytest.raises(
        pause.AlarmStopped, match=r"alarm dead at step 2: .*checkpoint-4 is kept; train\.alarms\.when\.dead"
    ):
        run(base, tmp_path, judge, alarms=alarms("stop", dead=0.95))
    judge = world.CountingJudge(covers_nothing)
    with pytest.raises(pause.AlarmStopped, match="alarm dead at step 2"):
        run(base, tmp_path, judge, alarms=alarms("stop", dead=0.95))
    assert not judge.groups, "without a step more"
    allowed = run(base, tmp_path, world.CountingJudge(covers_nothing), alarms=alarms("warn", dead=0.95))
    assert allowed.history.curves == undisturbed.history.curves
