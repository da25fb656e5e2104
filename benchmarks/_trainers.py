"""Stock TRL and our trainer side by side: the same captioner, pictures and settings, in turn, phase after phase.

The captioner is the embedded default's, freshly initialised with few words, so that captions end; a learning rate of
next to nothing and a seed per phase let both sides write the same captions, so that they do equal work.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from balcap.hashing import image_id
from balcap.judge.base import Counting
from balcap.params import load_params
from balcap.params.train import Train
from balcap.policy.build import build_tiny
from balcap.policy.generate import chat_prompt, forbidden_tokens
from balcap.policy.store import Policy, load_policy, quiet, save_policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.records import Assertion, Caption, Judgement, Picture, Question, Reference, Sample
from balcap.scenes import VOCABULARY
from balcap.training.config import ONE_PROCESS, grpo_config
from balcap.training.data import dataset
from balcap.training.judging import Judging
from balcap.training.run import freeze
from balcap.training.trainer import CaptionTrainer

warnings.simplefilter("ignore", FutureWarning)  # TRL's use of names that transformers is about to drop
ROOT = Path(__file__).parents[1]
WORDS = sorted(VOCABULARY)[:60]
LIMIT_SECONDS = 900.0
"""After this long a phase counts as stuck."""


def settings(**changes: Any) -> Train:
    """`train` of the embedded recipe with changes."""
    params = load_params(ROOT / "recipes/embedded.yaml")
    same = {"optimizer": params.train.optimizer.model_copy(update={"learning_rate": 1e-9, "warmup_steps": 0})}
    return params.train.model_copy(update=same | changes)


def captioner(folder: Path) -> Path:
    """The embedded default's architecture, untrained."""
    spec = load_params(ROOT / "recipes/embedded.yaml").warmstart.model
    assert spec is not None
    model, processor = build_tiny(spec, word_tokenizer(WORDS, "describe"), seed=0)
    save_policy(Policy(model, processor, "describe", restore_capitals=True, max_new_tokens=64), folder)
    return folder


def pictures(count: int, width: int, height: int) -> list[Picture]:
    """Pictures of noise in large blocks, with a reference of a dozen words."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        picture, file = small.resize((width, height), Image.Resampling.NEAREST), io.BytesIO()
        picture.save(file, "PNG")
        name, units = image_id(width, height, picture.tobytes()), tuple(WORDS[:12])
        sample = Sample(name, file.getvalue(), "train", "benchmark", "none")
        found.append(Picture(sample, Reference(name, " ".join(units), units, "benchmark", "")))
    return found


class SlowJudge(Counting):
    """Judges by rule, at once or after ``seconds``, all groups together."""

    name, revision = "benchmark", "1"
    fills = frozenset({"assertions", "covered", "clarity", "fluency", "coherency"})
    seconds = 0.0

    async def judge_group(
        self,
        sample: Sample,
        reference: Reference,
        captions: list[Caption],
        questions: tuple[Question, ...] = (),
        seed: int = 0,
    ) -> list[Judgement]:
        await asyncio.sleep(self.seconds)
        return [judgement(caption.text, reference) for caption in captions]


def judgement(text: str, reference: Reference) -> Judgement:
    """An assertion per five words, true by its length; a unit is covered when its word occurs."""
    words = text.lower().split()
    parts = [" ".join(words[i : i + 5]) for i in range(0, len(words), 5)]
    return Judgement(
        assertions=tuple(Assertion(part, len(part) % 3 > 0, len(part) % 2 > 0) for part in parts),
        covered=tuple(unit in words for unit in reference.units),
        clarity=1 + len(words) % 5,
        fluency=1 + len(text) % 5,
        coherency=3,
    )


@dataclass
class Turns(TrainerCallback):
    """One side of the comparison, run phase by phase: ``cpu`` and ``wall`` hold the seconds of each."""

    per_phase: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._began: tuple[float, float] | None = None

    def start(self, trainer: GRPOTrainer, threads: int = 1) -> None:
        """Let ``trainer``, which has this callback, run up to its first phase."""
        self._thread = threading.Thread(target=self._run, args=(trainer, threads), daemon=True)
        self._thread.start()
        self._wait()

    def phase(self) -> None:
        """Run one phase, from one generation to the next."""
        self._go.release()
        self._wait()

    def end(self) -> None:
        """Wait, behind the last phase, until nothing here holds the trainer any more."""
        self._thread.join(LIMIT_SECONDS)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.per_phase:
            return
        self._book()
        self._done.release()
        self._go.acquire()
        torch.manual_seed(state.global_step)
        self._began = (time.process_time(), time.perf_counter())

    def _book(self) -> None:
        if self._began:
            self.cpu.append(time.process_time() - self._began[0])
            self.wall.append(time.perf_counter() - self._began[1])

    def _run(self, trainer: GRPOTrainer, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            with quiet():
                trainer.train()
        except BaseException as error:
            self._error = error
        self._done.release()

    def _wait(self) -> None:
        if not self._done.acquire(timeout=LIMIT_SECONDS):
            raise TimeoutError(f"a phase took longer than {LIMIT_SECONDS:g} s")
        if self._error:
            raise self._error


def ours(
    params: Train,
    base: Path,
    shown: Sequence[Picture],
    judging: Judging,
    work: Path,
    turns: Turns,
    launch: Any = ONE_PROCESS,
    kind: type[CaptionTrainer] = CaptionTrainer,
) -> CaptionTrainer:
    """Our trainer as the stage builds it; it saves nothing."""
    policy = prepared(params, base)
    config = replace(
        grpo_config(params, work, forbidden_tokens(policy), launch), generation_batch_size=None, save_strategy="no"
    )
    rows = dataset([p.sample for p in shown], chat_prompt(policy), per_step(params), params.steps, params.seed)
    return kind(policy, params, config, rows, {p.sample.image_id: p for p in shown}, judging, [turns])


def stock(
    params: Train,
    base: Path,
    rows: Dataset,
    functions: Sequence[Any],
    config: GRPOConfig,
    turns: Turns,
    kind: type[GRPOTrainer] = GRPOTrainer,
    **changes: Any,
) -> GRPOTrainer:
    """TRL's trainer with the settings of ``config`` and ``changes``, and GDPO as TRL has it."""
    policy = prepared(params, base)
    changes |= {"generation_batch_size": None, "multi_objective_aggregation": "normalize_then_sum"}
    trainer = kind(
        policy.model,
        list(functions),
        replace(config, **changes),
        train_dataset=rows,
        processing_class=policy.processor,
        callbacks=[turns],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def prepared(params: Train, base: Path) -> Policy:
    """The captioner of ``base``, frozen as the recipe says."""
    policy = load_policy(base)
    freeze(policy.model, params.frozen)
    return policy


def per_step(params: Train) -> int:
    """Pictures per phase."""
    return params.global_batch_size // params.group_size


def instant(names: Sequence[str]) -> Iterator[Any]:
    """Reward functions of TRL that cost nothing."""
    for k, name in enumerate(names):

        def function(completion_ids: Any, k: int = k, **_: Any) -> list[float]:
            return [(len(ids) + k) % 7 / 6 for ids in completion_ids]

        function.__name__ = name
        yield function


def median_interval(values: np.ndarray) -> tuple[float, list[float]]:
    """Median and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.quantile(np.median(values[draws], axis=1), [0.025, 0.975])
    return float(np.median(values)), [round(float(low), 6), round(float(high), 6)]
