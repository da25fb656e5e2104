"""The length of a caption against its reference, and the masks built on it (paper, length-conditional masking).

    rho = words(caption) / words(reference)
    lcrm:    r_ling' = r_ling if tau_low <= rho <= tau_high else 0          both ends inclusive
    linear:  r_ling' = r_ling * max(0, 1 - |rho - 1|)                       a baseline (assumption 24)
    none:    r_ling' = r_ling

A word is what stands between white space (assumption 5). The mask needs no judge: where it closes, the linguistic
reward is a *known* 0.0, also when the judge failed.
"""

from __future__ import annotations

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
    return float(mask.tau_low <= rho <= mask.tau_high)


def masked(caption: Caption, reference: Reference, mask: LengthMask) -> bool:
    """Whether the mask closes: the linguistic reward of this caption is 0.0 because of its length."""
    return factor(ratio(caption, reference), mask) == 0.0


def apply(reward: float, caption: Caption, reference: Reference, mask: LengthMask) -> float:
    """The linguistic reward behind the mask: where it closes, an unknown one is 0.0 too; elsewhere it stays so."""
    opening = factor(ratio(caption, reference), mask)
    return 0.0 if 0.0 in (opening, reward) else reward * opening
