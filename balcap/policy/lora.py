"""Low-rank adapters: trained in place of the weights, kept in checkpoints by themselves, merged for the export.

W' = W + alpha / rank * B A            A [rank, in] starts at random, B [out, rank] at zero

config = lora_config(policy.model, params.train)     # what TRL's trainer puts adapters in by; None without LoRA
save_adapters(trainer.model, folder), load_adapters(trainer.model, folder)
policy = merged(load_policy(base), trainer.model)    # a plain captioner again

Adapters are merged into a base that was read anew: TRL merges and unmerges them in place whenever it pushes weights
into vLLM, and each time rounding moves the base in memory a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file

from balcap.files import atomic_path
from balcap.params.train import Lora
from balcap.policy.folder import PolicyError
from balcap.policy.store import Policy

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ADAPTERS = "adapters.safetensors"
HEAD = "lm_head"


def lora_config(model: torch.nn.Module, lora: Lora | None, frozen: Sequence[str]) -> LoraConfig | None:
    """peft's configuration for the layers that ``lora`` names and no prefix of ``frozen`` covers.

    Raises :class:`PolicyError` for a name without a layer, and for the head, whose adapter TRL would leave untrained.
    """
    if lora is None:
        return None
    from peft import LoraConfig

    layers = _layers(model, frozen)
    for target in lora.targets:
        if target not in layers or target == HEAD:
            raise PolicyError(_no_target(target, layers, frozen))
    names = [name for target in lora.targets for name in layers[target]]
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)


def save_adapters(model: PeftModel, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write the adapters into ``folder``; ``weights`` are all of the model's where no rank has them (ZeRO-3)."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, state_dict=weights)
    with atomic_path(folder / ADAPTERS) as tmp:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}, tmp)


def load_adapters(model: PeftModel, folder: Path) -> None:
    """Put back what :func:`save_adapters` wrote; raises :class:`PolicyError` if it belongs to other adapters."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    saved, present = load_file(folder / ADAPTERS), get_peft_model_state_dict(model)
    if {name: t.shape for name, t in saved.items()} != {name: t.shape for name, t in present.items()}:
        raise PolicyError(f"{folder / ADAPTERS}: its adapters are not those of train.lora; start anew")
    set_peft_model_state_dict(model, saved)


def merged(fresh: Policy, model: PeftModel, weights: dict[str, Any] | None = None) -> Policy:
    """``fresh``, which it uses up, with the adapters of ``model`` in its weights; ``weights`` as in
    :func:`save_adapters`.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    whole = get_peft_model(fresh.model, model.peft_config["default"])
    set_peft_model_state_dict(whole, get_peft_model_state_dict(model, state_dict=weights))
    return replace(fresh, model=cast(Any, whole).merge_and_unload())


def _layers(model: torch.nn.Module, frozen: Sequence[str]) -> dict[str, list[str]]:
    """Full names of the linear layers outside ``frozen``, by their own names."""
    found: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        covered = any(name == prefix or name.startswith(f"{prefix}.") for prefix in frozen)
        if isinstance(module, torch.nn.Linear) and not covered:
            found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


def _no_target(target: str, layers: dict[str, list[str]], frozen: Sequence[str]) -> str:
    if target == HEAD:
        return f"train.lora.targets: {HEAD} cannot have an adapter, log-probabilities are computed from its own weight"
    outside = f" outside train.frozen ({', '.join(frozen)})" if frozen else ""
    known = ", ".join(sorted(set(layers) - {HEAD}))
    return f"train.lora.targets: no linear layer of the captioner{outside} is called {target!r}; there are: {known}"
