"""What is wrong with a pinned model, judge or prompt, told before anything is asked."""

from __future__ import annotations


class Mismatch(ValueError):
    """The parameters pin another revision or prompt than the code has, or a model cannot be reached as they say."""
