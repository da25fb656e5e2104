"""The arms: one recipe each, ``recipes/ablation-NAME.yaml``, and what each is compared with.

``paper`` holds the arms that the paper reports, or that its framing calls for; ``further`` our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "ablation-"
"""What the recipe of an arm is called before the arm's name."""


@dataclass(frozen=True)
class Arm:
    """``against`` is the arm at equal budget that it is compared with; None for the arms that are compared with."""

    name: str
    title: str
    group: Literal["paper", "further"]
    against: str | None
    base: str = "base"
    """What the captioner before reinforcement learning is called in the results: one per world."""
    long: bool = False
    """Whether its captions grow long, so that it runs longest and is started first."""
    judge: Literal["exact", "noisy"] = "exact"
    """Who judges in training, and so draws its curves; at the end all arms have the exact one."""

    @property
    def recipe(self) -> str:
        """The recipe that it is."""
        return PREFIX + self.name


_ALL = (
    Arm("full", "full method", "paper", None),
    Arm("grpo", "GRPO, rewards in [0, 1]", "paper", "full"),
    Arm("grpo-raw", "GRPO, raw linguistic mark", "paper", "full"),
    Arm("no-pointability", "without pointability", "paper", "full"),
    Arm("no-linguistic", "without linguistic", "paper", "full", long=True),
    Arm("no-mask", "without length mask", "paper", "full"),
    Arm("linear", "linear length penalty", "paper", "full"),
    Arm("precision-only", "precision only", "paper", "full"),
    Arm("recall-only", "recall only", "paper", "full", long=True),
    Arm("precision-2", "precision × 2", "further", "full"),
    Arm("recall-2", "recall × 2", "further", "full"),
    Arm("linguistic-2", "linguistic × 2", "further", "full"),
    Arm("rank-unmasked", "ranked among unmasked", "further", "full"),
    Arm("soft", "soft mask", "further", "full"),
    Arm("noisy", "noisy judge", "further", "full", judge="noisy"),
    Arm("noisy-floor", "noisy judge, std floor", "further", "noisy", judge="noisy"),
    Arm("rvpo", "RVPO", "further", "full"),
    Arm("entropy", "entropy bonus", "further", "full"),
    Arm("kl", "KL to the warm start", "further", "full"),
    Arm("hard-full", "harder world, full method", "further", None, base="hard-base"),
    Arm("hard-grpo", "harder world, GRPO", "further", "hard-full", base="hard-base"),
)
ARMS = {arm.name: arm for arm in _ALL}
BASES = {"base": "warm start", "hard-base": "harder world, warm start"}
"""Titles of the captioners before reinforcement learning."""


def chosen(group: Literal["paper", "all"]) -> list[Arm]:
    """The arms of ``--arms``, in the order of the tables."""
    return [arm for arm in _ALL if group == "all" or arm.group == group]


def title(name: str) -> str:
    """What an arm or a warm start is called in a table."""
    return BASES[name] if name in BASES else ARMS[name].title


def warmstart_seed(seed: int) -> int:
    """Reinforcement learning with an even seed starts from the first warm start, with an odd one from the second."""
    return seed % 2
