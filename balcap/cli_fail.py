"""How every command ends when it cannot do what it was asked: one line on stderr, and an exit status."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer


def fail(message: str, code: int = 1) -> NoReturn:
    """End with a message on stderr and an exit status."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)
