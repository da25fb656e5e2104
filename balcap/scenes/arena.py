"""Pairwise preference between captions of one scene, exact and cheap (``miniature``, section 3, item 7).

    points = distinct correct pointable atoms - 1.5 x wrong atoms - comments - flaws;  a margin of more than 1 wins

Three opponents give resolution where the teacher alone beats everybody: the reference, a captioner with a third of the
noise, and the noisy captioner.
"""

from __future__ import annotations

from balcap.scenes.atoms import pointable, verified
from balcap.scenes.marks import flaws
from balcap.scenes.noisy import noisy_caption
from balcap.scenes.parse import parse
from balcap.scenes.world import Scene

WRONG, COMMENT, FLAW, MARGIN = 1.5, 1.0, 1.0, 1.0


def arena_points(scene: Scene, caption: str) -> float:
    """What a caption is worth."""
    atoms = parse(caption).atoms()
    right = {atom for atom in atoms if pointable(atom) and verified(atom, scene)}
    wrong = sum(not verified(atom, scene) for atom in atoms)
    comments = sum(atom.kind == "comment" for atom in atoms)
    return len(right) - WRONG * wrong - COMMENT * comments - FLAW * sum(flaws(caption))


def arena_outcome(scene: Scene, caption: str, opponent: str) -> int:
    """1 for a win of ``caption``, -1 for a loss, 0 for a tie."""
    margin = arena_points(scene, caption) - arena_points(scene, opponent)
    return (margin > MARGIN) - (margin < -MARGIN)


def arena_opponents(scene: Scene, reference: str, seed: int) -> tuple[str, str, str]:
    """The reference, a captioner with a third of the noise, and the noisy captioner."""
    return reference, noisy_caption(scene, seed, noise=1 / 3), noisy_caption(scene, seed)


def arena_score(scene: Scene, caption: str, opponents: tuple[str, ...]) -> float:
    """Mean outcome against the opponents, in [-1, 1]."""
    return sum(arena_outcome(scene, caption, opponent) for opponent in opponents) / len(opponents)
