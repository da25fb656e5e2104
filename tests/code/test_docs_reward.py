"""The reward that docs/extend.md shows works as it stands there."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from balcap.params.train import LengthMask
from balcap.records import Caption, Judgement, Reference
from balcap.rewards import REWARDS, needed, score

MASK = LengthMask(name="none", tau_low=0.5, tau_high=2.0, softness=None)
PAGE = Path(__file__).parents[2] / "docs/extend.md"


def test_the_reward_of_the_docs_is_one(monkeypatch: Any) -> None:
    section = PAGE.read_text(encoding="utf-8").split("## A reward in 20 lines")[1].split("\n## ")[0]
    code, test = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(code.splitlines()) <= 20
    world: dict[str, Any] = {}
    exec(code, world)
    module = ModuleType("balcap.rewards.concise")
    module.__dict__["concise"] = world["concise"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(test, world)
    world["test_a_caption_twice_as_long_is_worth_half"]()
    reference = Reference("id", "", (), "people", "")
    assert math.isnan(world["concise"](Judgement(), Caption("A car."), reference))
    monkeypatch.setitem(REWARDS, "concise", world["concise"])
    assert needed({"concise": 1.0}) == frozenset()
    captions, judged = [Caption("A very red car."), Caption("A car.")], [Judgement(covered=(True,)), Judgement()]
    red = Reference("id", "A car.", ("A car.",), "people", "")
    weights: dict[Any, float] = {"concise": 1.0, "recall": 1.0}
    rewards, _ = score(judged, captions, red, (), weights, {"covered"}, MASK)
    assert rewards.tolist()[0] == [1.0, 0.5] and rewards[1, 1] == 1.0 and math.isnan(rewards[1, 0])
