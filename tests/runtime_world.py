"""Section ``runtime`` of a run of one process, with changes."""

from __future__ import annotations

from typing import Any

from balcap.params.runtime import Runtime

ALONE = {"nodes": 1, "processes": 1, "deepspeed": "none", "offload": "none", "collective_timeout": 600.0}


def runtime(**changes: Any) -> Runtime:
    """One process, one thread, nothing served."""
    plain = {"threads": 1, "workers": 1, "tracking_uri": None, "train_python": None, "launch": ALONE}
    return Runtime.model_validate({**plain, "rollouts": None, "serving": {}, **changes})
