"""Rewards into advantages: pure functions on arrays, one file per rule, nothing of torch in them.

rule = make_rule(params.train.advantage, rewards.names(params.train.reward_weights))
advantages = rule(rewards, masked, group_size, weights, linguistic)     # float64 [N] from [N, K], [N], int, [K]

``linguistic`` is the column of the reward that the length mask acts on, or None without it: a rule with
``rank_unmasked`` treats it apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from balcap.advantages.base import Array
from balcap.advantages.dr_grpo import dr_grpo
from balcap.advantages.gdpo import gdpo
from balcap.advantages.grpo import grpo
from balcap.advantages.rvpo import rvpo
from balcap.params.train import DrGrpo, Gdpo, Grpo, Rvpo

__all__ = ["RULES", "Rule", "make_rule"]

Rule = Callable[[Array, NDArray[np.bool_], int, Array, int | None], Array]
RULES: dict[str, Callable[..., Array]] = {"gdpo": gdpo, "grpo": grpo, "dr_grpo": dr_grpo, "rvpo": rvpo}


def make_rule(params: Gdpo | Grpo | DrGrpo | Rvpo, names: Sequence[str]) -> Rule:
    """The rule that ``train.advantage`` names, with its settings; ``names`` are the rewards in the columns' order."""
    settings = params.model_dump(exclude={"name"})
    if isinstance(settings.get("std_floor"), dict):
        settings["std_floor"] = np.array([settings["std_floor"][name] for name in names])
    return partial(RULES[params.name], **settings)
