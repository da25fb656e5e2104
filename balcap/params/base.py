"""The strictness that every section shares: no unknown key, no silent conversion, no hidden default."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors, values cannot change after loading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = Annotated[tuple[Decay, Decay], Field(strict=False)]
"""Decay rates of AdamW's two moments."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""


def _inside(path: str) -> str:
    """Refuse what another checkout or worktree would resolve differently."""
    if not path or path.startswith(("/", "~")) or ".." in path.split("/"):
        raise ValueError(
            "must be a relative path inside the checkout; link a folder from elsewhere: ln -s /its/path data/mine"
        )
    return path.rstrip("/")


PathText = Annotated[str, AfterValidator(_inside)]
"""A relative path inside the repository."""
