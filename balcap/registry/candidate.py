"""What registration needs to know of a captioner, read from what the stages wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from balcap.hashing import content_md5, sha256_text
from balcap.params import Params
from balcap.policy.folder import weights_sha256
from balcap.registry.card import read_facts, render_card

POLICY = "models/policy"
BASE = "models/base"
MANIFEST = "data/manifest.parquet"


@dataclass(frozen=True)
class Candidate:
    """A captioner that can become a model version."""

    name: str
    """Of the registered model."""
    folder: Path
    """The policy folder."""
    md5: str
    """DVC's hash of the folder."""
    weights_sha256: str
    base_weights_sha256: str
    card: str
    """Markdown."""
    longest_side: int
    """Pixels; larger pictures are shrunk as ``prepare`` shrank those that the captioner learnt from."""

    def registration(self, alias: str) -> dict[str, str]:
        """What the stage writes down: no version number, no run, so that equal inputs give equal bytes."""
        return {
            "name": self.name,
            "alias": alias,
            "weights_sha256": self.weights_sha256,
            "base_weights_sha256": self.base_weights_sha256,
            "card_sha256": sha256_text(self.card),
        }


def read_candidate(root: Path, params: Params) -> Candidate:
    """Read the outputs of the earlier stages below ``root``; raises ``FileNotFoundError`` naming what is missing."""
    for needed in (POLICY, BASE, MANIFEST):
        if not (root / needed).exists():
            raise FileNotFoundError(2, "needed for registration, `dvc checkout` brings it back", str(root / needed))
    digest, base = weights_sha256(root / POLICY), weights_sha256(root / BASE)
    sizes = pq.read_table(root / MANIFEST, columns=["stored_width", "stored_height"])
    return Candidate(
        name=params.register_.name,
        folder=root / POLICY,
        md5=content_md5(root / POLICY),
        weights_sha256=digest,
        base_weights_sha256=base,
        card=render_card(read_facts(root, params, digest, base)),
        longest_side=max(max(column.to_pylist(), default=0) for column in sizes.columns),
    )
