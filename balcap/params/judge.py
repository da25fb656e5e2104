"""The judge, inside ``train`` and ``evaluate``: a rule that costs nothing, or a language model behind an endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from balcap.params.base import Sha256, Share, Strict


class RuleJudge(Strict):
    """Judges by rule, pinned by name and revision."""

    name: Literal["oracle", "lexical"]
    revision: str = Field(min_length=1)
    """Must be the revision that the judge states; a changed judge is a changed parameter."""
    max_failure_rate: Share
    """Above this share of unknown parts per step, training stops in a controlled way with a checkpoint."""


class NoisyJudge(Strict):
    """The oracle with errors of known frequency, always the same ones for the same caption of a picture."""

    name: Literal["noisy"]
    revision: str = Field(min_length=1)
    """Of the oracle."""
    max_failure_rate: Share
    """As of every judge; this one always answers."""
    flip: Share
    """Probability that a verdict (verified, pointable, covered) is the wrong one."""
    shift: Share
    """Probability that a mark is one higher or lower."""
    seed: int = Field(ge=0)
    """Which verdicts and marks those are."""


class Calls(Strict):
    """One value for each kind of call: assertions of a caption, units covered, three marks, a question answered."""

    precision: PositiveInt
    recall: PositiveInt
    linguistic: PositiveInt
    answer: PositiveInt


class Prompts(Strict):
    """sha256 of the prompt file of each kind of call (`balcap judge prompts` prints them)."""

    precision: Sha256
    recall: Sha256
    linguistic: Sha256
    answer: Sha256


class LlmJudge(Strict):
    """A language model behind an OpenAI-compatible endpoint (`runtime.serving` says where it is served)."""

    name: Literal["llm"]
    revision: str = Field(min_length=1)
    """Of the rules that make judgements of answers; must be the one that the code states."""
    max_failure_rate: Share
    model: str = Field(min_length=1)
    """Name under which it is served, and the key of `runtime.serving`."""
    model_revision: str = Field(min_length=1)
    """Which weights are meant; part of every cached answer's key."""
    sees_picture: bool
    """false: call `precision` gets the reference instead of the picture."""
    rounds: PositiveInt
    """Times each question is asked, with its options in another order."""
    prompts: Prompts
    max_tokens: Calls
    """Longest answer of each kind of call; a longer one is unknown."""


JudgeParams = Annotated[RuleJudge | NoisyJudge | LlmJudge, Field(discriminator="name")]
