"""Section ``evaluate``: base and policy on held-out pictures."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from balcap.params.base import Strict
from balcap.params.judge import JudgeParams


class Evaluate(Strict):
    """Section `evaluate`."""

    seed: int = Field(ge=0)
    max_images: PositiveInt
    """Held-out pictures used at most, the first by `image_id`."""
    batch_size: PositiveInt
    temperature: NonNegativeFloat
    """0 is greedy decoding."""
    max_new_tokens: PositiveInt
    judge: JudgeParams
    judge_deadline: PositiveFloat
    """Seconds in which one picture's captions must be judged; what is late is unknown."""
    allow_training_judge: bool
    """Whether the judge that gave the rewards may also evaluate."""
    bootstrap: int = Field(ge=100)
    """Draws over pictures for each interval."""
    confidence: float = Field(gt=0.5, lt=1.0)
    report_images: NonNegativeInt
    """Pictures shown in the report."""
