"""Protocol: length, always reported, because length alone moves many scores (``evaluation`` section 15)."""

from __future__ import annotations

from balcap.records import Caption, Reference
from balcap.rewards import length


def length_scores(caption: Caption, reference: Reference) -> dict[str, float]:
    """Words of the caption, and words of the caption per word of the reference."""
    return {"words": float(length.words(caption.text)), "length_ratio": float(length.ratio(caption, reference))}
