"""Protocol: pairwise comparison with three opponents who describe the same scene (``miniature`` section 3).

    arena = mean over opponents of (win 1, draw 0, loss -1);  a win needs a margin of more than one point

Opponents: the reference, a captioner with a third of the noise, the noisy captioner. Needs the scene's facts, so it
does not apply to photographs.
"""

from __future__ import annotations

import hashlib
import math

from balcap.records import Caption, Reference, Sample
from balcap.scenes import Scene
from balcap.scenes.arena import arena_opponents, arena_score


def arena(sample: Sample, reference: Reference, captions: list[Caption], seed: int) -> list[float]:
    """Score in [-1, 1] of each caption of one picture; NaN for a picture that carries no scene."""
    facts = sample.meta.get("scene")
    if facts is None:
        return [math.nan] * len(captions)
    scene = Scene.from_json(facts)
    others = arena_opponents(scene, reference.caption, picture_seed(seed, sample.image_id))
    return [arena_score(scene, caption.text, others) for caption in captions]


def picture_seed(seed: int, image_id: str) -> int:
    """The opponents' seed: the same for a picture wherever it stands."""
    return int.from_bytes(hashlib.sha256(f"{seed} {image_id}".encode()).digest()[:4], "big")
