"""The claims of ``claims.yaml`` and the rule that decides them.

e = score of `arm` less score of `against`, or the reverse for direction down          (``stats.effect``)
reproduced: low(e) >= threshold       not reproduced: high(e) < threshold       inconclusive: otherwise
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import Field

from balcap.params.base import Strict
from balcap.study.data import Study
from balcap.study.stats import METRICS, Estimate, effect

FILE = Path(__file__).parent / "claims.yaml"
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Comparison(Strict):
    """Two arms, what is compared, and from which effect on it counts."""

    arm: str
    against: str
    metric: str
    at: Literal["end", "curve"]
    direction: Literal["up", "down"]
    threshold: float


class Claim(Strict):
    """One claim; ``expect`` is None where nothing is known of the embedded world, ``again`` the id of the claim that
    reads the same published figure with another arm.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    source: Literal["paper", "ours"]
    claim: str
    paper: str
    expect: Verdict | None
    note: str | None
    again: str | None
    test: Comparison


class _Claims(Strict):
    claims: list[Claim]
    untested: list[str]


@dataclass(frozen=True)
class Decided:
    """A claim with the difference of its arms (``arm`` - ``against``) and the verdict."""

    claim: Claim
    estimate: Estimate
    verdict: Verdict


def load_claims() -> list[Claim]:
    """All claims, in the order of the file."""
    return _read().claims


def untested() -> list[str]:
    """What the paper reports and no arm tests."""
    return _read().untested


def _read() -> _Claims:
    return _Claims.model_validate(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def decide(test: Comparison, estimate: Estimate) -> Verdict:
    """The verdict from the interval of ``arm`` - ``against``."""
    low, high = estimate.low, estimate.high
    if test.direction == "down":
        low, high = -high, -low
    if math.isnan(low):
        return "inconclusive"
    if low >= test.threshold:
        return "reproduced"
    return "not reproduced" if high < test.threshold else "inconclusive"


def decide_all(study: Study, claims: Sequence[Claim]) -> list[Decided]:
    """The claims whose arms were run, decided."""
    run = set(study.arms())
    found = []
    for claim in claims:
        test = claim.test
        if {test.arm, test.against} <= run:
            estimate = effect(study, test.arm, test.against, METRICS[test.metric], test.at)
            found.append(Decided(claim, estimate, decide(test, estimate)))
    return found


def tally(decided: Sequence[Decided]) -> Counter[Verdict]:
    """How many claims have which verdict."""
    return Counter(one.verdict for one in decided)
