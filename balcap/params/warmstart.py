"""Section ``warmstart``: the starting captioner."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from balcap.params.base import Betas, PathText, Share, Strict

SMALLEST_BPE = 261
"""The 256 bytes and five special tokens."""


class Tokenizer(Strict):
    """Trained on the references, or the fixed word list of the embedded world."""

    name: Literal["scenes", "bpe"]
    vocab_size: PositiveInt
    """Upper bound for `bpe`; the word list has its own size."""

    @model_validator(mode="after")
    def _holds_every_byte(self) -> Tokenizer:
        if self.name == "bpe" and self.vocab_size < SMALLEST_BPE:
            raise ValueError(f"vocab_size ({self.vocab_size}) must be at least {SMALLEST_BPE} with name bpe")
        return self


class TinyModel(Strict):
    """A LLaVA of miniature size: CLIP tower, projector, Llama (`miniature`, section 4)."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    image_size: PositiveInt
    patch_size: PositiveInt
    tokenizer: Tokenizer

    @model_validator(mode="after")
    def _divides(self) -> TinyModel:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size ({self.patch_size}) must divide image_size ({self.image_size})")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide hidden_size ({self.hidden_size})")
        return self


class Phase(Strict):
    """One supervised phase."""

    steps: NonNegativeInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat


class SupervisedOptimizer(Strict):
    """AdamW, the same for every phase; a phase's own rate is its peak."""

    betas: Betas
    weight_decay: NonNegativeFloat
    warmup_steps: PositiveInt
    """Linear; at most a quarter of a phase."""
    final_rate: Share
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: PositiveFloat


class ScenesMethod(Strict):
    """Vision, align, SFT on fresh scenes drawn from seed and index (`miniature`, section 4)."""

    name: Literal["scenes"]
    min_objects: int = Field(ge=1, le=9)
    max_objects: int = Field(ge=1, le=9)
    optimizer: SupervisedOptimizer
    vision: Phase
    align: Phase
    sft: Phase


class ReferencesMethod(Strict):
    """Supervised training on the training pictures' own references."""

    name: Literal["references"]
    optimizer: SupervisedOptimizer
    sft: Phase


class CheckpointMethod(Strict):
    """A pinned local checkpoint directory at `warmstart.path`, used as it is."""

    name: Literal["checkpoint"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the checkpoint's weights, as `balcap` prints it when it disagrees."""


class Warmstart(Strict):
    """Section `warmstart`."""

    path: PathText
    """What the method reads besides the data: `balcap/scenes`, a captions file, or a checkpoint directory."""
    seed: int = Field(ge=0)
    prompt: str = Field(min_length=1)
    """The instruction that asks for a caption."""
    max_new_tokens: PositiveInt
    """Longest caption that the captioner writes when whoever asks sets no limit; kept in its `balcap.json`."""
    method: Annotated[ScenesMethod | ReferencesMethod | CheckpointMethod, Field(discriminator="name")]
    model: TinyModel | None
    """The architecture to build; null with a checkpoint."""

    @model_validator(mode="after")
    def _model_or_checkpoint(self) -> Warmstart:
        if (self.model is None) != (self.method.name == "checkpoint"):
            raise ValueError("model must be null with method checkpoint, and given with every other method")
        if self.method.name == "scenes" and self.model is not None and self.model.tokenizer.name != "scenes":
            raise ValueError("method scenes needs model.tokenizer.name scenes, the words of the embedded world")
        return self
