"""How much there is to do: judge calls and tokens, arithmetic, hours. Every hour here is an estimate.

    forward(T)   = 2 P T + 4 L H T^2 / 2        P matrix parameters of the text model, L layers, H width; causal
    tower        = 2 V patches                   V parameters of the vision tower
    head         = 2 x vocabulary x H            on the caption's tokens only
    update       = forward x (1 + 1 + trained share), and once more with gradient checkpointing; the backward pass ends
                   above what is frozen at the tower's bottom, but with gradient checkpointing it goes through all
                   of it, because transformers then wants gradients of every embedding, also of the pictures'
    seconds      = arithmetic / (peak x MFU x GPUs);  writing: bytes of weights and cache per token / bandwidth
    step         = sampling + max(log-probabilities, judging / judge GPUs) + update

Judging begins when the captions are there, and the update needs the verdicts: only the log-probabilities hide it.

Equal captions, equal calls and what the cache holds are paid once; the counts here are before that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from balcap.judge.prompts import load_prompt
from balcap.params import Params
from balcap.params.judge import LlmJudge
from balcap.plan.memory import engine_share
from balcap.plan.shape import Shape
from balcap.records import MARKS
from balcap.records_io import read_references
from balcap.rewards import needed

BYTES_PER_TOKEN = 4
"""Of English text."""
UNITS, UNIT_TOKENS = 15, 12
"""Units of a reference and tokens of one, where data/references.parquet does not say."""
TOKENS_PER_ASSERTION, ASSERTION_ANSWER = 12, 22
"""A caption's tokens behind one assertion, and what the judge writes of it."""
ANSWERS = {"linguistic": 25, "answer": 8}
QUESTION_TOKENS = 50
PICTURE_UNIT = 28
"""Side of the square of pixels that is one token to the judge, as in Qwen2.5-VL."""
JUDGE_READS, JUDGE_WRITES = 25_000.0, 11_000.0
"""Tokens per second of a 7B-class judge on one H100-class GPU, vLLM with its prefix cache off."""
PYTHON_STEP = 0.03
"""Least seconds per token of transformers' own generation, whatever the GPU."""


@dataclass(frozen=True)
class Machine:
    """One GPU: bytes, FLOP/s of its matrix units in the precision of training, share of them reached, bytes/s."""

    memory: float
    flops: float
    mfu: float
    bandwidth: float


@dataclass(frozen=True)
class Calls:
    """One kind of call: how many per step, and tokens per call."""

    kind: str
    per_step: int
    reads: int
    of_picture: int
    """Tokens of ``reads`` that are the picture."""
    writes: int
    writes_at_most: int


@dataclass(frozen=True)
class Units:
    """What the references hold: units and tokens of a reference, and where that is known from."""

    per_reference: float
    tokens: float
    source: str


ASSUMED = Units(UNITS, UNITS * UNIT_TOKENS, "assumed")


def units(path: Path) -> Units:
    """Means over ``data/references.parquet``, or what is assumed before it holds any."""
    found = list(read_references(path).values()) if path.is_file() else []
    if not found:
        return ASSUMED
    letters = sum(len(unit) for one in found for unit in one.units)
    return Units(
        sum(len(one.units) for one in found) / len(found), letters / BYTES_PER_TOKEN / len(found), str(path.name)
    )


def judge_calls(params: Params, caption: int, of_references: Units) -> list[Calls]:
    """Calls per step by kind; none with a judge that works by rule."""
    judge, train = params.train.judge, params.train
    if not isinstance(judge, LlmJudge):
        return []
    parts, captions = needed(train.reward_weights), train.global_batch_size
    picture = max(round(params.prepare.images.size / PICTURE_UNIT), 1) ** 2
    assertions = max(caption // TOKENS_PER_ASSERTION, 1)
    found = []
    if "assertions" in parts:
        seen = picture if judge.sees_picture else round(of_references.tokens)
        name = "precision" if judge.sees_picture else "precision-text"
        reads = _prompt(name) + seen + caption
        found.append(
            ("precision", captions, reads, picture if judge.sees_picture else 0, assertions * ASSERTION_ANSWER)
        )
    if "covered" in parts:
        reads = _prompt("recall") + round(of_references.tokens) + caption
        found.append(("recall", captions, reads, 0, 8 + round(2 * of_references.per_reference)))
    if parts & set(MARKS):
        found.append(("linguistic", captions, _prompt("linguistic") + caption, 0, ANSWERS["linguistic"]))
    if "answers" in parts:
        asked = captions * params.collect_questions.per_image * judge.rounds
        found.append(("answer", asked, _prompt("answer") + caption + QUESTION_TOKENS, 0, ANSWERS["answer"]))
    limits = judge.max_tokens.model_dump()
    return [Calls(k, n, reads, of, min(writes, limits[k]), limits[k]) for k, n, reads, of, writes in found]


def _prompt(name: str) -> int:
    return len(load_prompt(name).text) // BYTES_PER_TOKEN


def judge_seconds(calls: list[Calls]) -> float:
    """Seconds of one judge GPU per step."""
    return sum(one.per_step * (one.reads / JUDGE_READS + one.writes / JUDGE_WRITES) for one in calls)


@dataclass(frozen=True)
class Seconds:
    """Of one step, by part."""

    sampling: float
    logprobs: float
    update: float
    judging: float
    """Of one judge GPU."""

    def step(self, judges: float) -> float:
        """A step with that many judge GPUs; with infinitely many, training alone."""
        return self.sampling + max(self.logprobs, self.judging / judges) + self.update

    @property
    def hiding(self) -> int | None:
        """Fewest judge GPUs for which nothing waits; None where no pass runs beside judging, so that none hide it."""
        return max(math.ceil(self.judging / self.logprobs), 1) if self.logprobs else None


def forward_flops(found: Shape, prompt: int, caption: int) -> tuple[float, float]:
    """FLOP of one caption's forward pass: of the vision tower, and of the text model with its head."""
    tokens = found.image_tokens + prompt + caption
    head = found.vocab * found.hidden
    matrices = found.total - found.tower - found.embedding - (head if found.head_separate else 0)
    text = 2.0 * matrices * tokens + 2.0 * found.layers * found.hidden * tokens**2
    return 2.0 * found.tower * found.patches, text + 2.0 * head * caption


def update_flops(params: Params, found: Shape, prompt: int, caption: int) -> float:
    """FLOP of forward and backward pass of one caption."""
    tower, text = forward_flops(found, prompt, caption)
    again = 1 if params.train.gradient_checkpointing else 0
    rest = max(found.total - found.tower - found.embedding, 1)
    share = min((found.trained - found.tower_trained) / rest, 1.0)
    passed = found.tower if again else found.tower_passed
    seen = (passed * (1 + again) + found.tower_trained) / found.tower
    return text * (2 + share + again) + tower * (1 + seen)


def seconds(params: Params, found: Shape, prompt: int, caption: int, machine: Machine, judging: float) -> Seconds:
    """Roofline of one step on the GPUs of ``runtime.launch``; ``judging``: seconds of one judge GPU."""
    train, ranks = params.train, params.runtime.launch.ranks
    rows, rate = train.global_batch_size // ranks, machine.flops * machine.mfu
    forward = rows * sum(forward_flops(found, prompt, caption)) / rate
    vllm = train.sampler != "transformers"
    passes = int(vllm or train.updates_per_step > 1) + int(train.loss.kl > 0)
    reading = rows * sum(forward_flops(found, prompt, 0)) / rate
    writing = _writing(params, found, prompt, caption, machine)
    update = rows * update_flops(params, found, prompt, caption) / rate
    return Seconds(reading + writing, passes * forward, update, judging)


def _writing(params: Params, found: Shape, prompt: int, caption: int, machine: Machine) -> float:
    """Token by token: one reading of weights and cache for all captions under way; transformers waits for the longest.

    vLLM writes as many captions at once as its share has room for.
    """
    train, rollouts = params.train, params.runtime.rollouts
    rows = train.global_batch_size // params.runtime.launch.ranks
    narrow = 4 if train.sampler == "transformers" and train.precision == "float32" else 2
    weights = narrow * (found.total - found.tower) / (rollouts.tensor_parallel if rollouts else 1)
    one = 2.0 * narrow * (found.image_tokens + prompt + caption) * found.layers * found.kv
    if train.sampler == "transformers":
        return train.sampling.max_new_tokens * max((weights + rows * one) / machine.bandwidth, PYTHON_STEP)
    room = rows
    if train.sampler == "vllm_colocate" and rollouts:
        free = engine_share(params) * machine.memory - 2.0 * found.total / rollouts.tensor_parallel
        room = min(rows, max(int(free / one), 1))
    return caption * (rows / room * weights + rows * one) / machine.bandwidth
