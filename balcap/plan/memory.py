"""Memory on one GPU, for every ZeRO stage.

    states   = weights + gradients + optimiser        bytes per parameter:
               float32                 4 + 4 + 8        AdamW keeps two moments
               bfloat16                4 + 4 + 8        and autocast's copies, which are activations
               bfloat16, DeepSpeed     2 + 4 + 12       a float32 copy of what is trained besides; zero1: 2 + 2 + 12
    zero1 divides the optimiser by the number of ranks, zero2 the gradients too, zero3 the weights too.
    peak     = resident + max(sampling captions, forward and backward, update)

Weights count whole, gradients and optimiser for what is trained. Plain data parallelism keeps gradients twice, because
PyTorch's buckets are buffers of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig

from balcap.params import Params
from balcap.params.runtime import Launch
from balcap.plan.shape import Shape, shape, wide
from balcap.plan.trace import Passes, trace

STAGES = ("none", "zero1", "zero2", "zero3")
BUCKET = 500_000_000
"""Parameters in the buffer through which DeepSpeed reduces gradients."""
LIVE = 1_000_000_000
"""Parameters that zero3 keeps gathered at most."""
HEAD_ROWS, HEAD_COLUMNS = 4096, 32768
"""Captions' positions and tokens of the vocabulary that TRL's head computes at once."""


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU, and ``host`` in main memory per GPU."""

    stage: str
    weights: float
    gradients: float
    optimizer: float
    reference: float
    rollouts: float
    """What vLLM takes for itself."""
    pictures: float
    cache: float
    """Keys and values of captions that are being written, without vLLM."""
    prefill: float
    """What reading the prompts takes on top, without vLLM; zero3 gathers all weights for it."""
    activations: float
    """What the forward pass keeps, or needs while it runs."""
    logits: float
    backward: float
    """What the backward pass takes on top of ``activations``, where that is more than ``logits``."""
    update: float
    accumulates: bool
    """Whether gradients stand beside activations: after the first of several micro-batches."""
    host: float

    @property
    def states(self) -> float:
        """Weights, gradients and optimiser."""
        return self.weights + self.gradients + self.optimizer

    @property
    def moments(self) -> dict[str, float]:
        """Bytes at the height of each part of a step."""
        resident = self.weights + self.optimizer + self.reference + self.rollouts + self.pictures
        passing = self.activations + max(self.logits, self.backward)
        kept = self.gradients if self.accumulates else 0.0
        return {
            "sampling": resident + self.cache + self.prefill,
            "forward and backward": resident + max(kept + passing, self.gradients + self.backward),
            "update": resident + self.gradients + self.update,
        }

    @property
    def peak(self) -> float:
        """Bytes at the height of a step."""
        return max(self.moments.values())


class Planner:
    """Knows one captioner; answers for any parameters what it needs. ``gpu`` is the memory of one GPU in bytes."""

    def __init__(self, config: PretrainedConfig, side: int, prompt: int, gpu: float) -> None:
        self.config, self.side, self.prompt, self.gpu = config, side, prompt, gpu
        self._shapes: dict[str, Shape] = {}
        self._traced: dict[str, Passes] = {}

    def shape(self, params: Params) -> Shape:
        """The captioner's counts under ``params``."""
        key = repr((params.train.frozen, params.train.lora))
        if key not in self._shapes:
            self._shapes[key] = shape(self.config, params.train, self.side)
        return self._shapes[key]

    def tokens(self, params: Params) -> int:
        """Positions of a prompt with its picture, and the longest caption."""
        return self.shape(params).image_tokens + self.prompt + params.train.sampling.max_new_tokens

    def need(self, params: Params, launch: Launch | None = None) -> Need:
        """What one GPU needs; ``launch`` in place of the one in ``params``."""
        launch = launch or params.runtime.launch
        found, train, ranks = self.shape(params), params.train, launch.ranks
        stage = STAGES.index(launch.deepspeed)
        pure = stage > 0 and train.precision == "bfloat16"
        own, narrow = 2 if pure else 4, 2 if train.precision == "bfloat16" else 4
        rows = train.global_batch_size // ranks
        passes = self._passes(params, pure)
        weights = own * found.total / (ranks if stage == 3 else 1)
        gradients = (4 / ranks if stage >= 2 else own) * found.trained
        optimizer = (12 if stage else 8) * found.trained / (ranks if stage else 1)
        copied = stage > 0 and not (pure and stage == 2)  # gradients, for the optimiser; zero2's are flat float32
        update = 4 * found.trained / ranks if copied else 0.0
        host = _offloaded(launch.offload, weights, gradients if stage >= 2 else 0.0, optimizer)
        if launch.offload != "none":
            gradients, optimizer, update = gradients if stage == 1 else 0.0, 0.0, 0.0
        if launch.offload == "parameters":
            weights = 0.0
        writes = train.sampler == "transformers"
        return Need(
            stage=launch.deepspeed,
            weights=weights + (own * min(found.total, LIVE) if stage == 3 else 0.0),
            gradients=gradients + _buckets(stage, ranks, own, found.trained),
            optimizer=optimizer,
            reference=own * found.total / (ranks if stage == 3 else 1) if train.loss.kl and not train.lora else 0.0,
            rollouts=engine_share(params) * self.gpu,
            pictures=4.0 * rows * found.pixels,
            cache=self._cache(params, rows, own + narrow) if writes else 0.0,
            prefill=self._prefill(found, rows, narrow) + (own * found.total if stage == 3 else 0.0) if writes else 0.0,
            activations=max(passes.forward, passes.held),
            logits=self._logits(params, own, narrow),
            backward=max(passes.held + passes.working - max(passes.forward, passes.held), 0.0),
            update=update,
            accumulates=rows // train.updates_per_step > train.micro_batch_size,
            host=host,
        )

    def _passes(self, params: Params, pure: bool) -> Passes:
        train = params.train
        rows, tokens = train.micro_batch_size, self.tokens(params)
        key = repr((rows, tokens, train.precision, train.gradient_checkpointing, train.frozen, train.lora, pure))
        if key not in self._traced:
            self._traced[key] = trace(self.config, train, self.shape(params), rows, tokens, pure)
        return self._traced[key]

    def _cache(self, params: Params, rows: int, pair: int) -> float:
        """``pair``: bytes of a key and a value; under autocast, rotation leaves keys in float32."""
        found = self.shape(params)
        return float(pair) * rows * self.tokens(params) * found.layers * found.kv

    def _prefill(self, found: Shape, rows: int, narrow: int) -> float:
        """The widest layer of text model or tower, and the next token's logits: as they come, and twice in float32."""
        text = rows * (found.image_tokens + self.prompt) * wide(found.hidden, found.intermediate)
        return narrow * max(text, rows * found.patches * found.tower_wide) + rows * found.vocab * (narrow + 8)

    def _logits(self, params: Params, own: int, narrow: int) -> float:
        """TRL's head: a tile of logits, float32 gradients of its input and, if trained, of its weight."""
        found, train = self.shape(params), params.train
        rows = train.micro_batch_size * train.sampling.max_new_tokens
        tile = min(rows, HEAD_ROWS) * min(found.vocab, HEAD_COLUMNS) * narrow
        weight = found.vocab * found.hidden * (4 + (own if own != 4 else 0)) if found.head_trained else 0
        return float(tile + 4 * rows * found.hidden + weight)


def engine_share(params: Params) -> float:
    """Of each GPU, what colocated vLLM takes for itself; 0.0 without it."""
    rollouts = params.runtime.rollouts
    if params.train.sampler != "vllm_colocate" or rollouts is None or rollouts.gpu_memory is None:
        return 0.0
    return rollouts.gpu_memory


def _offloaded(offload: str, weights: float, gradients: float, optimizer: float) -> float:
    """Bytes that DeepSpeed keeps in main memory."""
    return {"none": 0.0, "optimizer": gradients + optimizer, "parameters": weights + gradients + optimizer}[offload]


def _buckets(stage: int, ranks: int, own: int, trained: int) -> float:
    """Buffers through which gradients travel between ranks."""
    if stage:
        return float(own * min(trained, BUCKET))
    return float(own * trained) if ranks > 1 else 0.0
