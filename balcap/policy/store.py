"""A captioner on disk: a transformers folder with weights as safetensors only, plus ``balcap.json``.

    policy = load_policy("models/base")
    save_policy(policy, "models/policy")           # equal policies give equal bytes

- **Nothing is unpickled or executed**: pickled weights in a folder are refused, code in it is never imported.
- **vLLM** looks for CLIP towers under ``vision_tower.vision_model.``, transformers 5 writes ``vision_tower.``; keys are
  renamed on writing, and transformers reads both (``stack``, section 6.5); training renames what it pushes into vLLM.
- Library versions and origins are left out of the JSON files: the bytes depend on the captioner alone.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging as hf_logging

from balcap.files import atomic_path, write_json
from balcap.policy.folder import PolicyError, check_folder, read_note, write_note
from balcap.policy.processor import read_processor, write_processor

if not torch.cuda.is_available():  # saving a model imports DeepSpeed, which warns that it found no accelerator
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

HISTORY = ("transformers_version", "is_local", "local_files_only", "name_or_path", "_name_or_path")
"""Keys of the JSON files that tell how a folder came about, not what it holds."""
TOWER, NESTED = "vision_tower.", "vision_tower.vision_model."


@dataclass
class Policy:
    """A captioner in memory: the model, its processor and how it is asked."""

    model: PreTrainedModel
    processor: ProcessorMixin
    prompt: str
    """The instruction that asks for a caption."""
    restore_capitals: bool
    """Whether its tokenizer lower-cases, so that capitals must be put back for display."""
    max_new_tokens: int


def load_policy(path: Path | str, device: str = "cpu", dtype: torch.dtype | str = torch.float32) -> Policy:
    """Read a captioner folder; raises :class:`PolicyError` if it is missing, incomplete or not safe to read."""
    path = Path(path)
    check_folder(path)
    note = read_note(path)
    try:
        with quiet():
            model, found = _read_model(path, dtype)
            processor = read_processor(path)
    except Exception as error:  # a folder is a user's file, and libraries raise what they like for a broken one
        raise PolicyError(f"{path}: transformers cannot read this captioner: {error}") from error
    if wrong := sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"])):
        raise PolicyError(
            f"{path}: {len(wrong)} weights that config.json asks for are missing or of another shape ({wrong[0]} …); "
            "fetch the checkpoint again, or the config that belongs to it"
        )
    model.generation_config = _plain(model.generation_config)
    return Policy(model.to(device).eval(), processor, **note)


def _read_model(path: Path, dtype: torch.dtype | str) -> tuple[Any, dict[str, Any]]:
    """The model, and what the loading had to make up: transformers fills missing weights with random numbers."""
    read: Any = AutoModelForImageTextToText.from_pretrained(
        path,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    return read


def _plain(recommended: GenerationConfig) -> GenerationConfig:
    """Plain sampling with the folder's own end and forbidden tokens.

    What else a folder recommends (Qwen2.5-VL: a repetition penalty) would be applied wherever a caller sets nothing,
    and captions would come from another distribution than the one that is trained.
    """
    kept = ("bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens")
    return GenerationConfig(do_sample=True, top_k=0, **{name: getattr(recommended, name) for name in kept})


def save_policy(policy: Policy, path: Path | str, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write a captioner folder; it appears complete or not at all. Equal policies give equal bytes.

    ``weights`` are those to write where the model does not hold them all itself (ZeRO-3), by its own names.
    """
    with atomic_path(path) as folder:
        with quiet():
            policy.model.save_pretrained(folder, state_dict=weights)
            write_processor(policy.processor, folder)
        for written in sorted(folder.glob("*.safetensors")):
            nest_tower(written)
        for text in sorted(folder.glob("*.json")):
            _tidy_json(text)
        write_note(folder, policy.prompt, policy.restore_capitals, policy.max_new_tokens)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its notes about missing torchvision."""
    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def nested(key: str) -> str:
    """The name under which vLLM looks for a weight, by its name in memory or on disk; only a tower's differs."""
    head, found, tail = key.partition(TOWER)
    return f"{head}{NESTED}{tail}" if found and head in ("", "model.") and not key.startswith(head + NESTED) else key


def nest_tower(weights: Path) -> None:
    """Rewrite one safetensors file under vLLM's names; a file without a tower stays as it is."""
    with safe_open(weights, "pt") as f:
        tensors = {nested(key): f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
        if set(tensors) != set(f.keys()):
            with atomic_path(weights) as tmp:  # tensors may still be views of the file
                save_file(tensors, tmp, metadata={"format": "pt"})


def _tidy_json(file: Path) -> None:
    """Rename keys in the index of sharded weights; drop history; sort. The tokenizer's own file stays as it is."""
    if file.name == "tokenizer.json":
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in HISTORY}
    if "weight_map" in content:
        content["weight_map"] = {nested(key): name for key, name in content["weight_map"].items()}
    write_json(file, content)
