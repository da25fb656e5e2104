"""``-S key=value`` on a plain parameter file, as far as planning needs it: values are JSON or YAML.

override(raw, ["train.lora.rank=16", "+train.reward_weights.utility=1", "~train.reward_weights.recall"])
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

import yaml

from balcap.params import ParamsError


def override(raw: dict[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """A changed copy; ``+key`` adds one, ``~key`` takes one away. Raises :class:`ParamsError` for an unknown key."""
    raw = copy.deepcopy(raw)
    for change in changes:
        _apply(raw, change)
    return raw


def _apply(raw: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    sign = key[0] if key[:1] in ("+", "~") else ""
    *path, last = key.lstrip("+~").split(".")
    section: Any = raw
    for part in path:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or (sign != "+" and last not in section):
        raise ParamsError(f"-S {change}: the recipe has no key {key.lstrip('~')}; add it with -S +{key.lstrip('+~')}=…")
    if sign == "~":
        del section[last]
    elif not equals:
        raise ParamsError(f"-S {change}: expected KEY=VALUE")
    else:
        section[last] = _value(change, text)


def _value(change: str, text: str) -> Any:
    """YAML reads 1e-6 as a word, JSON as a number."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ParamsError(f"-S {change}: {text!r} is neither JSON nor YAML") from None
