"""Nested state (optimizers, schedulers, random numbers) in one safetensors file: nothing is pickled.

    save_nested({"state": {0: {"exp_avg": tensor}}, "betas": (0.9, 0.95)}, path)
    value = load_nested(path)          # equal, tensors on the CPU

Tensors are the file's tensors; what holds them together is JSON in the file's metadata. Dictionaries (any plain keys),
lists, tuples, sets, numbers, text and ``None`` come back as they were; anything else is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from balcap.files import atomic_path

TREE = "tree"


def save_nested(value: Any, path: Path) -> None:
    """Write ``value`` to ``path``, complete or not at all; ``TypeError`` names what cannot be written."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(value, tensors, ""))
    with atomic_path(path) as tmp:
        save_file(_separate(tensors), tmp, metadata={TREE: tree})


def load_nested(path: Path) -> Any:
    """What :func:`save_nested` wrote."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _decode(json.loads(file.metadata()[TREE]), tensors)


def _encode(value: Any, tensors: dict[str, torch.Tensor], place: str) -> Any:
    """``value`` as JSON; its tensors are added to ``tensors``, ``place`` is where in the whole it stands."""
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return int(value)  # an enumeration's member is its number
    if isinstance(value, torch.Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, tensors, place), _encode(v, tensors, f"{place}.{k}")] for k, v in value.items()]}
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return {name: [_encode(v, tensors, f"{place}.{i}") for i, v in enumerate(value)]}
    raise TypeError(f"state{place}: {type(value).__name__} cannot be written without pickle")


KINDS: dict[str, Any] = {"list": list, "tuple": tuple, "set": set}


def _decode(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, inner),) = tree.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {_decode(key, tensors): _decode(value, tensors) for key, value in inner}
    return KINDS[kind](_decode(value, tensors) for value in inner)


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, each with memory of its own: safetensors writes no two tensors that share theirs."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        memory = found.untyped_storage()
        if memory.nbytes() != found.nbytes or memory.data_ptr() in seen:
            found = found.clone()
        seen.add(memory.data_ptr())
        tensors[name] = found
    return tensors
