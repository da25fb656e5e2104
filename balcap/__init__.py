"""balcap turns a folder of images into a better captioner, and can prove that it is better.

    import balcap
    balcap.score(image, caption, reference)        # judgement and rewards of one caption

Importing the package is light; what a function needs is imported when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from balcap.records import Caption, Reference, Sample
    from balcap.scoring import Scored

__all__ = ["score"]


def score(image: Sample | Image | bytes | str | Path, caption: Caption | str, reference: Reference | str) -> Scored:
    """Judge one caption of one picture against a reference; see :func:`balcap.scoring.score`."""
    from balcap import scoring

    return scoring.score(image, caption, reference)
