"""Section ``prepare``: where images come from and how they are stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from balcap.params.base import PathText, Share, Strict


class ScenesSource(Strict):
    """The procedural picture world (`balcap.scenes`)."""

    name: Literal["scenes"]
    seed: int = Field(ge=0)
    count: PositiveInt
    """Pictures to draw, RL and evaluation together."""
    min_objects: int = Field(ge=1, le=9)
    max_objects: int = Field(ge=1, le=9)

    @model_validator(mode="after")
    def _ordered(self) -> ScenesSource:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects ({self.min_objects}) must be at most max_objects ({self.max_objects})")
        return self


class FolderSource(Strict):
    """A directory of image files, read recursively from `prepare.path`."""

    name: Literal["folder"]
    license: str = Field(min_length=1)
    """Licence of pictures that the attribution file does not name."""
    attribution: str | None
    """JSONL, CSV or parquet file inside the folder with `image`, `author`, `source`, `license`; or null."""


class Images(Strict):
    """How a picture is stored; policy, judge and evaluation all see these bytes."""

    size: int = Field(ge=16, le=4096)
    """Longest side in pixels after the one resize; smaller pictures are not enlarged."""
    format: Literal["png", "jpeg"]
    quality: int | None = Field(ge=1, le=95)
    """JPEG quality; null for PNG, which loses nothing."""

    @model_validator(mode="after")
    def _quality_for_jpeg(self) -> Images:
        if (self.quality is None) != (self.format == "png"):
            raise ValueError("quality must be a number with format jpeg, and null with format png")
        return self


class Limits(Strict):
    """What is refused, each with a reason in the rejects table."""

    max_pixels: PositiveInt
    max_bytes: PositiveInt
    min_side: PositiveInt
    max_reject_share: Share
    """The stage fails when more than this share of the pictures is refused; a duplicate is no fault."""


class Split(Strict):
    """Deterministic split by hash of `image_id`."""

    seed: int = Field(ge=0)
    eval_share: float = Field(gt=0.0, lt=1.0)


class Prepare(Strict):
    """Section `prepare`."""

    path: PathText
    """What the source reads: the folder of images, or `balcap/scenes` for the procedural world."""
    source: Annotated[ScenesSource | FolderSource, Field(discriminator="name")]
    images: Images
    limits: Limits
    split: Split
    shard_size: PositiveInt
    """Pictures per parquet shard."""
