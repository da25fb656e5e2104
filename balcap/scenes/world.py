"""The facts of a picture: one to nine coloured shapes on a 3 x 3 grid before a background (``miniature``, section 2).

    scene = draw_scene(seed=7, index=0, min_objects=1, max_objects=3)
    Scene.from_json(scene.to_json()) == scene

A scene carries everything that its picture needs, down to the seed of the pixel noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
"""In order of hue, so that neighbours are the likely confusions."""
SIZES = ("small", "large")
BACKGROUNDS = ("white", "grey", "black", "tan")
TEXTURES = ("plain", "striped", "dotted")
PLACES = (
    "top-left", "top-centre", "top-right",
    "middle-left", "centre", "middle-right",
    "bottom-left", "bottom-centre", "bottom-right",
)  # fmt: skip
"""Cells of the grid in reading order; row = cell // 3, column = cell % 3."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

RADIUS = {"small": 7, "large": 11}
SHIFT = 2
"""Most pixels that a thing stands away from the middle of its cell, in each direction."""
TINT_STD = 14.0
"""Spread of a thing's colour around its name's colour, of 255, per channel."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: what a caption can say (``shape``, ``colour``, ``size``, ``cell``) and how exactly it is drawn."""

    shape: str
    colour: str
    size: str
    cell: int
    radius: int
    dx: int
    dy: int
    tint: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """All facts of one picture; ``things`` in reading order, in distinct cells."""

    things: tuple[Thing, ...]
    background: str
    texture: str
    noise_seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as stored under ``meta["scene"]``."""
        return asdict(self) | {"things": [asdict(thing) | {"tint": list(thing.tint)} for thing in self.things]}

    @classmethod
    def from_json(cls, raw: Any) -> Scene:
        """Inverse of :meth:`to_json`; raises ``ValueError`` saying what is no scene."""
        try:
            things = tuple(Thing(**{**thing, "tint": tuple(thing["tint"])}) for thing in raw["things"])
            scene = cls(things, raw["background"], raw["texture"], raw["noise_seed"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the facts of a scene: {error!r}") from None
        scene._check()
        return scene

    def _check(self) -> None:
        cells = [thing.cell for thing in self.things]
        known = all(
            thing.shape in SHAPES and thing.colour in COLOURS and thing.size in SIZES and thing.cell in range(9)
            for thing in self.things
        )
        if not known or cells != sorted(set(cells)) or self.background not in BACKGROUNDS:
            raise ValueError("not the facts of a scene: unknown value, or two things in one cell")
        if self.texture not in TEXTURES:
            raise ValueError(f"not the facts of a scene: texture {self.texture!r}")


def draw_scene(seed: int, index: int, min_objects: int, max_objects: int) -> Scene:
    """Scene number ``index`` of stream ``seed``; the smallest number of objects is half as likely as each other.

    With one to three objects that is .2 / .4 / .4. Raises ``ValueError`` unless 1 <= min_objects <= max_objects <= 9.
    """
    if not 1 <= min_objects <= max_objects <= len(PLACES):
        raise ValueError(f"objects must be between 1 and 9, got {min_objects} to {max_objects}")
    rng = np.random.default_rng([seed, index])
    weights = np.full(max_objects - min_objects + 1, 2.0)
    weights[0] = 1.0
    count = min_objects + int(rng.choice(len(weights), p=weights / weights.sum()))
    cells = sorted(rng.permutation(len(PLACES))[:count].tolist())
    things = tuple(_draw_thing(rng, cell) for cell in cells)
    return Scene(things, _pick(rng, BACKGROUNDS), _pick(rng, TEXTURES), int(rng.integers(2**32)))


def _draw_thing(rng: np.random.Generator, cell: int) -> Thing:
    size = _pick(rng, SIZES)
    dx, dy = rng.integers(-SHIFT, SHIFT + 1, 2).tolist()
    red, green, blue = np.rint(rng.normal(0.0, TINT_STD, 3)).astype(int).tolist()
    return Thing(
        shape=_pick(rng, SHAPES),
        colour=_pick(rng, COLOURS),
        size=size,
        cell=cell,
        radius=RADIUS[size] + int(rng.integers(-1, 2)),
        dx=dx,
        dy=dy,
        tint=(red, green, blue),
    )


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]
