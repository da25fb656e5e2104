"""What is wrong with an override that DVC refused.

explain(Path("params.yaml"), ["train.step=3"], "what DVC said")       "-S train.step = 3: unknown key; allowed here: …"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def explain(path: Path, overrides: Sequence[str], reason: str) -> str:
    """Name the unknown key and its known neighbours, or else what DVC said."""
    for override in overrides:
        key, _, value = override.partition("=")
        node: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        for part in key.lstrip("+~").split("."):
            if not isinstance(node, Mapping) or key.startswith("+"):
                break
            if part not in node:
                return f"-S {key} = {value}: unknown key; allowed here: {', '.join(map(str, node))}"
            node = node[part]
    return f"-S {' '.join(overrides)}: {' '.join(reason.split())}"
