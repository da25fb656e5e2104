"""Whole small runs: deterministic, stopped by a failing judge and resumed, learning."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_world as world

from balcap.hashing import dir_md5
from balcap.policy.store import save_policy
from balcap.records import Judgement
from balcap.training import run as run_room
from balcap.training import trainer as trainer_room
from balcap.training.data import TrainingError
from balcap.training.manifest import checkpoints
from balcap.training.metrics import metric_names
from balcap.training.run import Trained, train
from balcap.training.trainer import JudgeFailed


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return world.base(tmp_path / "base")


def run(base: Path, work: Path, by: world.CountingJudge | None = None, **changes: Any) -> Trained:
    samples, references = world.data()
    return train(
        world.settings(**changes), base, samples, references, {}, work, world.Tracked(), by or world.CountingJudge()
    )


def content(result: Trained, folder: Path) -> str:
    save_policy(result.policy, folder)
    return dir_md5(folder)


def test_equal_runs_give_equal_bytes_and_a_finished_one_is_not_repeated(base: Path, tmp_path: Path) -> None:
    results = [run(base, tmp_path / name) for name in ("one", "two")]
    hashes = [content(result, tmp_path / f"policy-{i}") for i, result in enumerate(results)]
    assert hashes[0] == hashes[1] and results[0].history == results[1].history
    judge = world.CountingJudge()
    again = run(base, tmp_path / "one", judge)
    assert content(again, tmp_path / "policy-2") == hashes[0] and again.history == results[0].history
    assert not judge.groups
    other = run(base, tmp_path / "three", seed=1)
    assert content(other, tmp_path / "policy-3") != hashes[0]


def test_only_what_is_not_frozen_changes(base: Path, tmp_path: Path) -> None:
    from balcap.policy.store import load_policy

    before = load_policy(base).model.state_dict()
    after = run(base, tmp_path / "work").policy.model.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and not [name for name in changed if "vision_tower" in name]
    with pytest.raises(TrainingError, match=r"no parameter of the captioner lies under 'model\.visual'"):
        run(base, tmp_path / "other", frozen=["model.visual"])


def test_history_has_every_metric_and_samples_as_asked(base: Path, tmp_path: Path) -> None:
    result = run(base, tmp_path / "work")
    names = metric_names(result.rewards)
    assert [set(row) for row in result.history.curves] == [{"step", *names}] * 4
    assert [row["step"] for row in result.history.samples] == [0, 0, 2, 2, 4, 4]
    verdict = json.loads(result.history.samples[0]["verdict"])
    assert set(verdict) == {"assertions", "covered", "clarity", "fluency", "coherency", "answers"}
    held_out = sorted(s.image_id for s in world.data()[0] if s.split == "eval")[-2:]
    assert [row["image_id"] for row in result.history.samples[:2]] == held_out


def test_two_checkpoints_are_kept(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path / "work", save_every=1)
    assert [c.name for c in checkpoints(tmp_path / "work")] == ["checkpoint-6", "checkpoint-8"]


def forgetful(part: str) -> Callable[[list[Judgement]], list[Judgement]]:
    return lambda judged: [replace(j, **{part: None}) for j in judged]


def test_a_judge_that_fails_too_often_stops_the_run_with_a_checkpoint(base: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run(base, work, steps=2)
    stopped = {"judge": {"name": "lexical", "revision": "1", "max_failure_rate": 0.2}, "steps": 4}
    with pytest.raises(JudgeFailed, match=r"33.3% of its answers are unknown in step 3.*max_failure_rate is 20.0%"):
        run(base, work, world.CountingJudge(forgetful("covered")), **stopped)
    assert [c.name for c in checkpoints(work)][-1] == "checkpoint-4"
    fresh = tmp_path / "fresh"
    with pytest.raises(JudgeFailed, match="unknown in step 1"):
        run(base, fresh, world.CountingJudge(forgetful("covered")), **stopped)
    assert not checkpoints(fresh), "nothing was learned yet"


def test_the_run_that_a_judge_stopped_goes_on_as_if_nothing_had_been(base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "judge": {"name": "lexical", "revision": "1", "max_failure_rate": 0.1}, "steps": 4, "save_every": 3
    }  # fmt: skip
    calls = 0

    def gone_later(judged: list[Judgement]) -> list[Judgement]:
        nonlocal calls
        calls += 1
        return forgetful("covered")(judged) if calls > 8 else judged

    with pytest.raises(JudgeFailed, match="unknown in step 2"):
        run(base, tmp_path / "work", world.CountingJudge(gone_later), **settings)
    assert [c.name for c in checkpoints(tmp_path / "work")] == ["checkpoint-2"], "not one of the regular ones"
    resumed = run(base, tmp_path / "work", **settings).history.curves
    assert resumed == run(base, tmp_path / "undisturbed", **settings).history.curves


def test_unknown_parts_are_counted_and_not_zero(base: Path, tmp_path: Path) -> None:
    result = run(base, tmp_path / "work", world.CountingJudge(forgetful("covered")))
    for row in result.history.curves:
        assert row["reward/recall/unknown"] > 0.2
        assert row["reward/recall/mean"] in (None, 0.0)  # of empty and truncated captions, which are known
        assert row["reward/precision/unknown"] == 0.0
        assert row["judge/failure_rate"] == pytest.approx(1 / 3)


class Closing(world.CountingJudge):
    """Knows whether it was closed."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def test_a_reward_that_the_judge_cannot_give_is_refused(base: Path, tmp_path: Path) -> None:
    class Blind(Closing):
        fills = frozenset({"covered"})

    judge = Blind()
    with pytest.raises(TrainingError, match=r"train\.reward_weights\.precision: judge counting cannot give"):
        run(base, tmp_path / "work", judge)
    assert judge.closed


def test_a_judge_that_never_says_whether_it_can_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(Closing):
        async def ready(self) -> str:
            await asyncio.Event().wait()
            return ""

    judge = Silent()
    monkeypatch.setattr(run_room, "READY_SECONDS", 0.5)
    with pytest.raises(TrainingError, match=r"train\.judge: counting did not say within 0\.5 s whether it can judge"):
        run(base, tmp_path / "work", judge)
    assert judge.closed


@pytest.mark.parametrize("rule", ["gdpo", "grpo"])
def test_the_reward_rises(base: Path, tmp_path: Path, rule: str) -> None:
    advantage = {
        "gdpo": {"name": "gdpo", "ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True, "rank_unmasked": False},
        "grpo": {"name": "grpo", "scale": "group", "ddof": 1, "eps": 1e-4, "rank_unmasked": False},
    }[rule]
    result = run(base, tmp_path / "work", steps=30, samples_every=30, save_every=30, advantage=advantage)
    means = [sum(row[f"reward/{name}/mean"] for name in result.rewards) / 3 for row in result.history.curves]
    assert sum(means[-5:]) / 5 > sum(means[:5]) / 5 + 0.2


def test_fewer_rewards_and_updates(base: Path, tmp_path: Path) -> None:
    result = run(base, tmp_path / "work", steps=2, reward_weights={"recall": 1.0}, updates_per_step=1)
    assert result.rewards == ("recall",)
    assert [set(row) for row in result.history.curves] == [{"step", *metric_names(["recall"])}] * 2
    assert [c.name for c in checkpoints(tmp_path / "work")] == ["checkpoint-2"], "one update in each step"


class Seen:
    """What runs compute with, seen from inside their trainer."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.advantages: list[Any] = []
        self.types: set[torch.dtype] = set()
        self.passes = self.micro_steps = 0
        """Passes through the first projection that are learnt from."""
        compute, advise = trainer_room.CaptionTrainer._compute_loss, trainer_room.CaptionTrainer._advantages

        def loss(trainer: Any, model: Any, inputs: Any) -> Any:
            if not self.micro_steps:
                found = [m for name, m in model.named_modules() if name.endswith("layers.0.self_attn.q_proj")]
                found[-1].register_forward_hook(self._look)
            self.micro_steps += 1
            return compute(trainer, model, inputs)

        def advantages(trainer: Any) -> Any:
            self.advantages.append(advise(trainer))
            return self.advantages[-1]

        patch.setattr(trainer_room.CaptionTrainer, "_compute_loss", loss)
        patch.setattr(trainer_room.CaptionTrainer, "_advantages", advantages)

    def _look(self, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self.passes += 1
            self.types.add(output.dtype)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_and_recomputation_are_as_asked(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype, again: bool
) -> None:
    seen = Seen(monkeypatch)
    result = run(base, tmp_path / "work", steps=1, precision=precision, gradient_checkpointing=again)
    assert seen.types == {dtype} and seen.micro_steps == 4
    assert seen.passes == seen.micro_steps * (2 if again else 1)
    assert {p.dtype for p in result.policy.model.parameters()} == {torch.float32}, "autocast leaves weights alone"


def test_the_kl_term_is_measured_if_it_is_on(base: Path, tmp_path: Path) -> None:
    found = {}
    for kl in (0.0, 0.01):
        tracked, (samples, references) = world.Tracked(), world.data()
        params = world.settings(steps=2, loss={**world.SETTINGS["loss"], "type": "grpo", "kl": kl})
        train(params, base, samples, references, {}, tmp_path / str(kl), tracked, world.CountingJudge())
        found[kl] = [metrics["trl/kl"] for _, metrics in tracked.logged if "trl/kl" in metrics]
    assert found[0.0] == [] and len(found[0.01]) == 2 and found[0.01][-1] > 0.0


def praises(judged: list[Judgement]) -> list[Judgement]:
    return [replace(j, clarity=5) for j in judged]


def test_a_soft_mask_closes_for_no_caption(base: Path, tmp_path: Path) -> None:
    soft = {"name": "soft", "tau_low": 0.5, "tau_high": 2.0, "softness": 0.5}
    settings: dict[str, Any] = {"steps": 1, "sampling": {**world.SETTINGS["sampling"], "max_new_tokens": 40}}
    hard, other = (  # most captions end before 40 tokens, too long for the mask
        run(base, tmp_path / mask["name"], world.CountingJudge(praises), length_mask=mask, **settings).history.curves[0]
        for mask in (world.SETTINGS["length_mask"], soft)
    )
    assert hard["length/masked"] > 0.1 and other["length/masked"] == 0.0
    assert other["reward/linguistic/mean"] > hard["reward/linguistic/mean"]
    assert other["length/words"] == hard["length/words"] and other["quality/linguistic"] == hard["quality/linguistic"]


RULES: dict[str, dict[str, Any]] = {
    "gdpo": {"name": "gdpo", "ddof": 1, "eps": 1e-4, "std_floor": 0.0, "batch_step": True},
    "grpo": {"name": "grpo", "scale": "batch", "ddof": 1, "eps": 1e-4},
}


@pytest.mark.parametrize("rule", RULES)
def test_unmasked_captions_are_ranked_by_themselves_if_asked(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """The same captions of the untrained captioner get other advantages."""
    seen = Seen(monkeypatch)
    rows = [
        run(base, tmp_path / str(on), steps=1, advantage={**RULES[rule], "rank_unmasked": on}).history.curves[0]
        for on in (False, True)
    ]
    assert 0.1 < rows[0]["length/masked"] < 0.9
    of_captions = ("reward", "length", "quality", "text", "judge")
    assert all(rows[0][name] == rows[1][name] for name in rows[0] if name.split("/")[0] in of_captions)
    plain, ranked = seen.advantages
    assert plain.shape == ranked.shape == (16,) and abs(plain - ranked).max() > 0.05


def test_the_reference_of_the_kl_term_is_the_base_also_after_a_resume(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from balcap.policy.store import load_policy

    seen = []

    def keep(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        seen.append({name: value.clone() for name, value in self.ref_model.state_dict().items()})

    original = trainer_room.CaptionTrainer.__init__
    monkeypatch.setattr(trainer_room.CaptionTrainer, "__init__", keep)
    loss = {"type": "dapo", "clip_low": 0.2, "clip_high": 0.28, "kl": 0.01, "entropy": 0.0}
    run(base, tmp_path / "work", steps=2, loss=loss)
    run(base, tmp_path / "work", loss=loss)
    expected = load_policy(base).model.state_dict()
    assert len(seen) == 2
    assert all(value.equal(found[name]) for found in seen for name, value in expected.items())
