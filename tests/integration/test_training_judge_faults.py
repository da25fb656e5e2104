"""Training against an endpoint that dies and returns: ridden out, lived through, or stopped and resumed.

Time is simulated: the client's pauses move a clock and take no time; the endpoint returns when the clock says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import train_world as world
from evaluation_world import picture
from oracle_world import PARAMS, PROMPTS, Endpoint, endpoint, serving

from balcap.judge.llm import LlmJudge
from balcap.llm.cache import AnswerCache
from balcap.llm.client import Client
from balcap.policy.build import build_tiny
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.records import Judgement, Picture
from balcap.serve.oracle import MODEL, Oracle
from balcap.training.manifest import checkpoints
from balcap.training.run import Trained, train
from balcap.training.trainer import JudgeFailed

WORDS = ("a", "red", "blue", "circle", "square", "sits", "at", "the", "top-left", "background", "is", "grey", ".")
LONGEST = 30
"""Tokens: most captions of this untrained captioner end before, so that there is something to judge."""
SHOWN, PER_STEP = 2, 4
"""Groups that are judged before the first step, and in each step."""
DEATH = SHOWN + PER_STEP + 1
"""The group at which the endpoint dies: the first of step 2."""


class Time:
    """Simulated seconds, moved by whoever waits longest; ``due`` happens once, at ``at``."""

    def __init__(self) -> None:
        self.now, self.at = 0.0, float("inf")
        self.due: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)
        if self.now >= self.at:
            self.at = float("inf")
            self.due()


class Judge(LlmJudge):
    """The real judge; ``before`` is told the number of the group that is about to be judged, from 1."""

    def __init__(self, url: str, cache: Path, retries: int, time: Time, before: Callable[[int], None]) -> None:
        client = Client(MODEL, serving(url, retries), sleep=time.sleep, clock=time.clock)
        parts = ("assertions", "covered", "clarity", "fluency", "coherency")
        super().__init__(PARAMS, PROMPTS, client, AnswerCache(cache), parts)
        self.count, self.before = 0, before

    async def judge_group(self, *asked: Any) -> list[Judgement]:
        self.count += 1
        self.before(self.count)
        return await super().judge_group(*asked)


def pictures() -> list[Picture]:
    drawn = [picture(i) for i in range(9)]
    return [replace(p, sample=replace(p.sample, split="train" if i < 6 else "eval")) for i, p in enumerate(drawn)]


PICTURES = pictures()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    model, processor = build_tiny(world.TINY, word_tokenizer(WORDS, "describe"), seed=0)
    save_policy(Policy(model, processor, "describe", restore_capitals=True, max_new_tokens=LONGEST), folder)
    return folder


def run(base: Path, work: Path, judge: LlmJudge, accepted: float) -> Trained:
    """A run of four steps that accepts a share of unknown answers."""
    changes = {
        "judge": {"name": "lexical", "revision": "1", "max_failure_rate": accepted},
        "sampling": {**world.SETTINGS["sampling"], "max_new_tokens": LONGEST},
        "optimizer": {**world.SETTINGS["optimizer"], "learning_rate": 5e-4},
    }
    samples, references = [p.sample for p in PICTURES], {p.reference.image_id: p.reference for p in PICTURES}
    return train(world.settings(**changes), base, samples, references, {}, work, world.Tracked(), judge)


def oracle() -> Oracle:
    return Oracle([p.sample for p in PICTURES])


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("undisturbed")
    with endpoint(oracle()) as serving:
        return run(base, folder, Judge(serving.url, folder / "answers", 0, Time(), lambda _: None), 0.0)


def dies(endpoint: Endpoint, group: int) -> Callable[[int], None]:
    return lambda count: endpoint.die() if count == group else None


def test_the_undisturbed_run_has_something_to_learn_from(undisturbed: Trained) -> None:
    rows = undisturbed.history.curves
    assert all(row["judge/failure_rate"] == 0.0 and row["advantage/std"] > 0.5 for row in rows)
    assert all(max(row[f"reward/{name}/mean"] for row in rows) > 0.0 for name in ("precision", "recall", "linguistic"))


def test_an_endpoint_that_is_away_for_a_minute_costs_time_and_nothing_else(
    base: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    time = Time()
    with endpoint(oracle()) as serving:

        def die_for_a_minute(count: int) -> None:
            if count == DEATH:
                serving.die()
                time.at, time.due = time.now + 60.0, serving.revive

        judge = Judge(serving.url, tmp_path / "answers", 20, time, die_for_a_minute)
        result = run(base, tmp_path / "work", judge, 0.0)
    assert time.now >= 60.0 and not judge.failures
    made = judge.account()
    assert made["judge/precision/attempts"] > made["judge/precision/calls"] > 0
    assert result.history == undisturbed.history


def test_away_for_longer_than_is_accepted_stops_the_run_which_goes_on_when_it_is_back(
    base: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    with endpoint(oracle()) as serving:
        judge = Judge(serving.url, tmp_path / "answers", 2, Time(), dies(serving, DEATH))
        with pytest.raises(JudgeFailed) as stopped:
            run(base, tmp_path / "work", judge, 0.3)
        said = (
            r"(9\d|100)\.\d% of its answers are unknown in step 2, .* is 30\.0% .*no endpoint.*; checkpoint-2 is kept"
        )
        assert re.search(said, str(stopped.value)), stopped.value
        assert [c.name for c in checkpoints(tmp_path / "work")] == ["checkpoint-2"]
        serving.revive()
        judge = Judge(serving.url, tmp_path / "answers", 2, Time(), lambda _: None)
        resumed = run(base, tmp_path / "work", judge, 0.3)
    assert judge.count == 3 * PER_STEP + 2 * SHOWN, "steps 2 to 4 and the samples after 2 and 4, nothing of step 1"
    assert resumed.history == undisturbed.history


def test_away_during_a_step_where_that_is_accepted_leaves_that_step_unknown(
    base: Path, undisturbed: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with endpoint(oracle()) as serving:

        def away_in_step_2(count: int) -> None:
            if count == DEATH:
                serving.die()
            elif count == DEATH + PER_STEP:
                serving.revive()

        judge = Judge(serving.url, tmp_path / "answers", 1, Time(), away_in_step_2)
        curves = run(base, tmp_path / "work", judge, 1.0).history.curves
    rates = [row["judge/failure_rate"] for row in curves]
    assert rates[1] > 0.9 and sum(rates) == rates[1], "answers that are cached are known all the same"
    assert curves[0] == undisturbed.history.curves[0]
    for name in ("precision", "recall", "linguistic"):
        assert curves[1][f"reward/{name}/mean"] in (None, 0.0), "of cut-off and empty captions, which are known"
        assert curves[1][f"reward/{name}/unknown"] > 0.1
        assert curves[2][f"reward/{name}/unknown"] == 0.0
    assert set(judge.failures) <= {f"{kind}: {why}" for kind in PROMPTS for why in ("no endpoint", "connection")}
    assert "All reward functions" not in caplog.text, "TRL's advice, which would be wrong here"
