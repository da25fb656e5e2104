"""Section ``train``: reinforcement learning (TRL), rewards, mask, advantages."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from balcap.params.base import Betas, Strict
from balcap.params.judge import JudgeParams

RewardName = Literal["precision", "recall", "linguistic", "utility"]
AlarmName = Literal["dead", "spread", "unknown", "masked", "length", "entropy", "trade"]


CLOSING = ("lcrm", "linear")
"""Masks behind which nothing is left of the linguistic reward."""


class LengthMask(Strict):
    """LCRM (paper, section 3 of `method`): where the linguistic reward counts."""

    name: Literal["lcrm", "none", "linear", "soft"]
    tau_low: float = Field(ge=0.0)
    tau_high: float = Field(gt=0.0)
    """Length ratio caption / reference in words, both ends inclusive."""
    softness: float | None = Field(ge=0.01, le=10.0)
    """With `soft`, how far outside the interval half of the reward is left, in units of log ratio; else null."""

    @model_validator(mode="after")
    def _interval(self) -> LengthMask:
        if self.tau_low >= self.tau_high:
            raise ValueError(f"tau_low ({self.tau_low}) must be below tau_high ({self.tau_high})")
        if (self.softness is None) == (self.name == "soft"):
            raise ValueError("softness must be a number with name soft, and null with every other name")
        return self


class Gdpo(Strict):
    """c-GDPO: each reward normalised in its group, weighted sum, batch step."""

    name: Literal["gdpo"]
    ddof: Literal[0, 1]
    eps: PositiveFloat
    std_floor: NonNegativeFloat | dict[RewardName, NonNegativeFloat]
    """Spread that a reward's judge makes of nothing (`balcap judge calibrate`), for all rewards or for each by name."""
    batch_step: bool
    rank_unmasked: bool
    """Normalise the linguistic reward among captions that the length mask leaves open; the others stand at -1."""


class Grpo(Strict):
    """GRPO on the weighted sum of rewards."""

    name: Literal["grpo"]
    scale: Literal["group", "batch", "none"]
    ddof: Literal[0, 1]
    eps: PositiveFloat
    rank_unmasked: bool
    """As of `gdpo`, in units of the linguistic reward's spread in its group."""


class DrGrpo(Strict):
    """Dr. GRPO: the weighted sum of rewards less its group's mean, divided by nothing."""

    name: Literal["dr_grpo"]


class Rvpo(Strict):
    """RVPO: a soft minimum over the rewards' z-scores, so that the worst one counts most."""

    name: Literal["rvpo"]
    sharpness: PositiveFloat
    """k of the soft minimum; towards 0 it is `gdpo`."""
    ddof: Literal[0, 1]
    eps: PositiveFloat
    std_floor: NonNegativeFloat | dict[RewardName, NonNegativeFloat]
    """As of `gdpo`."""
    batch_step: bool
    rank_unmasked: bool
    """As of `gdpo`."""


class Optimizer(Strict):
    """AdamW and its schedule."""

    learning_rate: PositiveFloat
    betas: Betas
    weight_decay: NonNegativeFloat
    warmup_steps: NonNegativeInt
    schedule: Literal["constant_with_warmup", "cosine", "linear"]
    max_grad_norm: PositiveFloat


class Loss(Strict):
    """The clipped surrogate of GRPO."""

    type: Literal["dapo", "grpo", "dr_grpo", "bnpo"]
    clip_low: float = Field(gt=0.0, lt=1.0)
    clip_high: PositiveFloat
    kl: NonNegativeFloat
    """Coefficient of the KL term; 0 loads no reference model."""
    entropy: NonNegativeFloat
    """Coefficient of the bonus on the entropy of the next token; 0 is none."""


class Lora(Strict):
    """Low-rank adapters are trained in place of the weights, and merged into them at the end."""

    rank: PositiveInt
    alpha: PositiveInt
    """The adapters' product is scaled by alpha / rank."""
    dropout: float = Field(ge=0.0, lt=1.0)
    targets: tuple[str, ...] = Field(strict=False, min_length=1)
    """Names of the linear layers that get one, such as `q_proj`; those under `frozen` get none."""


BELOW: dict[AlarmName, float] = {
    "dead": 1.0, "spread": 1.0, "unknown": 1.0, "masked": 0.5, "entropy": 1.0, "trade": 1.0
}  # fmt: skip
"""Limits that mean something lie below these."""


class Alarm(Strict):
    """What counts as bad, and what happens then."""

    limit: PositiveFloat
    """Beyond it the alarm sounds. A share of groups (dead), of captions (unknown), of captions away from none and from
    all (masked), of the start (spread, entropy); a factor (length); a difference of rewards (trade).
    """
    action: Literal["warn", "pause", "stop"]
    """`pause` and `stop` write a checkpoint; a paused run goes on when it is resumed, a stopped one failed."""


class Alarms(Strict):
    """Watches over the rewards while training runs."""

    window: PositiveInt
    """Steps over which each alarm takes means, and at the start of the run, what it compares with."""
    when: dict[AlarmName, Alarm]
    """An alarm is on if and only if it stands here."""

    @model_validator(mode="after")
    def _limits_can_be_passed(self) -> Alarms:
        for name, alarm in self.when.items():
            if not (alarm.limit > 1.0 if name == "length" else alarm.limit < BELOW[name]):
                allowed = "above 1" if name == "length" else f"below {BELOW[name]:g}"
                raise ValueError(
                    f"when.{name}.limit ({alarm.limit:g}) must be {allowed}: it would sound always or never"
                )
        return self


class Sampling(Strict):
    """How captions are sampled during training."""

    temperature: PositiveFloat
    top_p: float = Field(gt=0.0, le=1.0)
    top_k: NonNegativeInt
    max_new_tokens: PositiveInt


class Train(Strict):
    """Section `train`."""

    seed: int = Field(ge=0)
    steps: PositiveInt
    """Generation phases; each samples `global_batch_size` captions."""
    global_batch_size: PositiveInt
    """Captions per generation phase, over all ranks."""
    group_size: int = Field(ge=2)
    """Captions per picture, G."""
    updates_per_step: PositiveInt
    """Optimiser steps per generation phase."""
    micro_batch_size: PositiveInt
    """Captions per forward and backward pass on one rank."""
    precision: Literal["float32", "bfloat16"]
    """bfloat16 keeps float32 weights and computes under autocast; with `runtime.launch.deepspeed` weights are bfloat16,
    with float32 masters beside them."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, more time, the same result."""
    sampler: Literal["transformers", "vllm_colocate", "vllm_server"]
    """Who writes the captions; vLLM needs `runtime.rollouts`."""
    lora: Lora | None
    """null trains the weights themselves."""
    frozen: tuple[str, ...] = Field(strict=False)
    """Prefixes of parameter names that are not trained."""
    optimizer: Optimizer
    loss: Loss
    sampling: Sampling
    reward_weights: dict[RewardName, NonNegativeFloat]
    """A reward is on if and only if it stands here."""
    pointable: bool
    """Whether precision asks that a true statement can be pointed at; evaluation always does."""
    length_mask: LengthMask
    advantage: Annotated[Gdpo | Grpo | DrGrpo | Rvpo, Field(discriminator="name")]
    judge: JudgeParams
    judge_deadline: PositiveFloat
    """Seconds in which one step's captions must be judged; what is late is unknown."""
    samples_every: PositiveInt
    """Steps between looks at what the captioner says of the sample images."""
    sample_images: int = Field(ge=1, le=16)
    """Held-out pictures looked at; the last by `image_id`."""
    save_every: PositiveInt
    """Steps between checkpoints."""
    alarms: Alarms

    @model_validator(mode="after")
    def _advantage_fits_its_rewards(self) -> Train:
        rule, on = self.advantage, self.reward_weights
        if isinstance(rule, DrGrpo):
            return self
        if rule.rank_unmasked and not ("linguistic" in on and self.length_mask.name in CLOSING):
            raise ValueError(
                f"advantage.rank_unmasked true needs reward_weights.linguistic, and a length_mask.name "
                f"({self.length_mask.name}) that closes: {' or '.join(CLOSING)}"
            )
        if not isinstance(rule, Grpo) and isinstance(rule.std_floor, dict) and set(rule.std_floor) != set(on):
            raise ValueError(
                f"advantage.std_floor must name the rewards that are on ({', '.join(on)}), each with its floor (0 is "
                f"none); it names {', '.join(rule.std_floor) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _alarms_can_sound(self) -> Train:
        alarms = self.alarms
        if alarms.when and alarms.window >= self.steps:
            raise ValueError(
                f"alarms.window ({alarms.window}) must be below steps ({self.steps}): alarms compare the last steps "
                "with the first; in so short a run set a smaller one, or alarms.when to {} for none"
            )
        if "masked" in alarms.when and self.length_mask.name not in CLOSING:
            raise ValueError(
                f"alarms.when.masked would never sound: length_mask.name ({self.length_mask.name}) closes for no "
                f"caption; leave it out, or take {' or '.join(CLOSING)}"
            )
        return self

    @field_validator("reward_weights")
    @classmethod
    def _some_reward(cls, weights: dict[str, float]) -> dict[str, float]:
        if not any(weight > 0 for weight in weights.values()) or not all(map(math.isfinite, weights.values())):
            raise ValueError("at least one weight must be above zero, and all finite")
        return weights

    @model_validator(mode="after")
    def _batch_holds_groups(self) -> Train:
        if self.global_batch_size % self.group_size:
            raise ValueError(f"group_size ({self.group_size}) must divide global_batch_size ({self.global_batch_size})")
        update, micro = self.global_batch_size // self.updates_per_step, self.micro_batch_size
        if self.global_batch_size % self.updates_per_step or update % micro:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be updates_per_step ({self.updates_per_step}) "
                f"times a multiple of micro_batch_size ({micro})"
            )
        return self
