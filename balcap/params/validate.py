"""Sections ``validate_images`` and ``validate_references``: thresholds of the data gates."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from balcap.params.base import Share, Strict


class ValidateImages(Strict):
    """Section `validate_images`."""

    min_train_images: PositiveInt
    min_eval_images: PositiveInt
    max_aspect: float = Field(ge=1.0)
    """Longest over shortest side."""
    max_reject_share: Share
    max_near_duplicate_share: Share
    """Share of pictures whose perceptual hash another picture has (warning)."""


class ValidateReferences(Strict):
    """Section `validate_references`."""

    min_coverage: Share
    """Share of the pictures that must have a reference."""
    min_words: NonNegativeInt
    max_words: PositiveInt
    min_units: PositiveInt
    max_refusal_share: Share
    max_repetition: Share
    """Largest share of repeated 4-word sequences in one caption (warning)."""
    min_questions: NonNegativeInt
    """Questions per evaluation picture (warning)."""
