"""The judge, inside ``train`` and ``evaluate``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from balcap.params.base import Share, Strict


class JudgeParams(Strict):
    """Which judge scores captions, pinned by name and revision."""

    name: Literal["oracle", "lexical"]
    revision: str = Field(min_length=1)
    """Must be the revision that the judge states; a changed judge is a changed parameter."""
    max_failure_rate: Share
    """Above this share of unknown parts per step, training stops in a controlled way with a checkpoint."""
