"""Section ``register``: the model version."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from balcap.params.base import Strict


def _not_champion(alias: str) -> str:
    if alias == "champion":
        raise ValueError("champion is moved by promotion only; use challenger")
    return alias


class Register(Strict):
    """Section `register`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    """Registered model; `balcap-` + recipe by custom."""
    alias: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$"), AfterValidator(_not_champion)]
    """Alias that moves to the new version; `champion` is moved by promotion only."""
    purpose: str = Field(min_length=1)
    """What the captioner is for, first paragraph of the model card."""
    limits: str = Field(min_length=1)
    """What it must not be trusted with."""
