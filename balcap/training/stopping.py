"""How a run ends early, in a controlled way: one exception, whose message says what is kept and how to go on."""

from __future__ import annotations


class Ended(RuntimeError):
    """Training ended before its last step, and everything worth keeping is in a checkpoint; the message tells all."""
