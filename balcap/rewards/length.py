"""The length of a caption against its reference, and the masks built on it (paper, length-conditional masking).

    rho = words(caption) / words(reference)
    lcrm:    r_ling' = r_ling if tau_low <= rho <= tau_high else 0          both ends inclusive
    linear:  r_ling' = r_ling * max(0, 1 - |rho - 1|)                       a baseline (assumption 24)
    none:    r_ling' = r_ling
    soft:    r_ling' = r_ling / (1 + (d / softness)^2),   d = max(0, ln(tau_low / rho), ln(rho / tau_high))

A word is what stands between white space (assumption 5). The mask needs no judge: where it closes, the linguistic
reward is a *known* 0.0, also when the judge failed.

``soft`` is ours: d is how far rho lies outside the interval, on the log scale, where half and double the length are
equally far. Half of the reward is left at d = softness. It has no edge (value and slope are continuous at both ends)
and heavy tails, so that of two captions far outside the nearer one still earns visibly more, where a bell curve would
be flat. It never closes: ``masked`` is never true, and an unknown reward stays unknown.
"""

from __future__ import annotations

import math

from balcap.params.train import LengthMask
from balcap.records import Caption, Reference


def words(text: str) -> int:
    """Number of words."""
    return len(text.split())


def ratio(caption: Caption, reference: Reference) -> float:
    """rho; NaN when the reference has no words."""
    n = words(reference.caption)
    return words(caption.text) / n if n else float("nan")


def factor(rho: float, mask: LengthMask) -> float:
    """What the linguistic reward is multiplied with, in [0, 1]; NaN when a ratio is needed and unknown."""
    if mask.name == "none":
        return 1.0
    if rho != rho:
        return rho
    if mask.name == "linear":
        return max(0.0, 1.0 - abs(rho - 1.0))
    if mask.softness is not None:
        return 1.0 / (1.0 + (outside(rho, mask) / mask.softness) ** 2)
    return float(mask.tau_low <= rho <= mask.tau_high)


def outside(rho: float, mask: LengthMask) -> float:
    """Distance of a ratio from the interval on the log scale, 0 inside it; infinite for a caption without words."""
    if mask.tau_low <= rho <= mask.tau_high:
        return 0.0
    if rho == 0.0:
        return math.inf
    return math.log(rho) - math.log(mask.tau_high) if rho > mask.tau_high else math.log(mask.tau_low) - math.log(rho)


def masked(caption: Caption, reference: Reference, mask: LengthMask) -> bool:
    """Whether the mask closes: the linguistic reward of this caption is 0.0 because of its length."""
    return mask.name != "soft" and factor(ratio(caption, reference), mask) == 0.0


def apply(reward: float, caption: Caption, reference: Reference, mask: LengthMask) -> float:
    """The linguistic reward behind the mask: where it closes, an unknown one is 0.0 too; elsewhere it stays so."""
    opening = factor(ratio(caption, reference), mask)
    return 0.0 if 0.0 in (opening, reward) else reward * opening
