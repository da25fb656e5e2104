"""Shared fixtures. No network, no telemetry, seeds fixed."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Equal examples in every run, and no verdict over how fast a loaded machine is.
settings.register_profile("balcap", deadline=None, derandomize=True, database=None)
settings.load_profile("balcap")
for name, value in {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

# Started in the background of a script, a process inherits that Ctrl-C is ignored, and so would every run that the
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
