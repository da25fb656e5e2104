"""Our advantages against TRL's own: its formula is cut out of the installed source and executed, not copied."""

from __future__ import annotations

import inspect
import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.trainer import grpo_trainer

from balcap.advantages import make_rule
from balcap.params.train import DrGrpo, Gdpo, Grpo

FIRST = "        unscorable_mask = torch.isnan(rewards_per_func).all(dim=1)\n"
LAST = "        advantages = torch.nan_to_num(advantages, nan=0.0)\n"


def trl_block() -> Any:
    """The lines of ``_generate_and_score_completions`` from the reward matrix to the advantages, compiled."""
    source = inspect.getsource(grpo_trainer.GRPOTrainer._generate_and_score_completions)
    assert source.count(FIRST) == 1 and source.count(LAST) == 1, "TRL moved its advantages"
    block = source[source.index(FIRST) : source.index(LAST) + len(LAST)]
    return compile(textwrap.dedent(block), "trl", "exec")


BLOCK = trl_block()


def trl(rewards: np.ndarray, size: int, weights: Any, aggregation: str, scale: str = "group") -> np.ndarray:
    """TRL's advantages; with float64 rewards only its correction count / (count - 1) is float32."""
    space = {
        **vars(grpo_trainer),
        "self": SimpleNamespace(
            multi_objective_aggregation=aggregation,
            scale_rewards=scale,
            reward_weights=torch.tensor(weights, dtype=torch.float64),
            reward_funcs=[None] * rewards.shape[1],
        ),
        "rewards_per_func": torch.from_numpy(rewards),
        "num_generations": size,
        "device": "cpu",
    }
    exec(BLOCK, space)
    return space["advantages"].numpy()


def ours(params: Gdpo | Grpo | DrGrpo, rewards: np.ndarray, size: int, weights: Any) -> np.ndarray:
    return make_rule(params, "abc")(rewards, np.zeros(len(rewards), dtype=bool), size, np.asarray(weights), None)


cases = st.tuples(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 8), st.integers(1, 4), st.floats(0.0, 0.6))


def draw(seed: int, groups: int, size: int, k: int, share: float, rows_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """Continuous rewards and unequal weights; a share of the values, or of whole rows, is unknown."""
    rng = np.random.default_rng(seed)
    rewards = rng.random((groups * size, k))
    unknown = rng.random((len(rewards), 1 if rows_only else k)) < share
    rewards[np.broadcast_to(unknown, rewards.shape)] = np.nan
    return rewards, rng.uniform(0.1, 3.0, k)


@given(cases)
@settings(max_examples=300, deadline=None)
def test_gdpo_equals_trl_with_any_value_unknown(case: Any) -> None:
    rewards, weights = draw(*case, rows_only=False)
    params = Gdpo(name="gdpo", ddof=1, eps=1e-4, std_floor=0.0, batch_step=True, rank_unmasked=False)
    expected = trl(rewards, case[2], weights, "normalize_then_sum")
    assert ours(params, rewards, case[2], weights) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@given(cases)
@settings(max_examples=200, deadline=None)
def test_grpo_equals_trl_with_whole_rows_unknown(scale: Any, case: Any) -> None:
    rewards, weights = draw(*case, rows_only=True)
    params = Grpo(name="grpo", scale=scale, ddof=1, eps=1e-4, rank_unmasked=False)
    expected = trl(rewards, case[2], weights, "sum_then_normalize", scale)
    assert ours(params, rewards, case[2], weights) == pytest.approx(expected, abs=2e-6)


@given(cases)
@settings(max_examples=100, deadline=None)
def test_dr_grpo_equals_trl_without_scaling(case: Any) -> None:
    rewards, weights = draw(*case, rows_only=True)
    expected = trl(rewards, case[2], weights, "sum_then_normalize", "none")
    assert ours(DrGrpo(name="dr_grpo"), rewards, case[2], weights) == pytest.approx(expected, abs=2e-6)


def test_float32_rewards_give_trls_float32_result() -> None:
    rewards, weights = draw(0, 32, 8, 3, 0.1, rows_only=False)
    single = rewards.astype(np.float32)
    params = Gdpo(name="gdpo", ddof=1, eps=1e-4, std_floor=0.0, batch_step=True, rank_unmasked=False)
    expected = trl(single, 8, weights.astype(np.float32), "normalize_then_sum")
    assert ours(params, single, 8, weights) == pytest.approx(expected, abs=1e-4)


def test_where_we_differ_on_purpose() -> None:
    """In a batch without differences TRL's float32 residues become advantages; ours are zero."""
    params = Gdpo(name="gdpo", ddof=1, eps=1e-4, std_floor=0.0, batch_step=True, rank_unmasked=False)
    theirs = 0.0
    for size in (3, 5, 6, 7):
        for level in (0.1, 0.3, 0.7, 0.9):
            flat = np.full((4 * size, 3), level, dtype=np.float32)
            flat[: 2 * size] = 0.25
            theirs = max(theirs, np.abs(trl(flat, size, np.ones(3, dtype=np.float32), "normalize_then_sum")).max())
            assert not ours(params, flat, size, np.ones(3)).any()
    assert theirs > 0.1
