"""Facts to pixels: ``render(scene)`` is uint8[96, 96, 3], always the same for the same scene.

Three by three cells of 32 pixels (one vision patch each); a thing lies wholly inside its cell. Masks and backgrounds
are computed once per process, so that a picture costs a fraction of a millisecond.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from balcap.scenes.world import Scene, Thing

CELL = 32
SIDE = 3 * CELL
NOISE_STD = 8.0
SHAPE_RGB = {
    "red": (214, 32, 38),
    "orange": (245, 132, 20),
    "yellow": (240, 220, 36),
    "green": (34, 150, 60),
    "blue": (36, 84, 214),
    "purple": (142, 46, 176),
}
BACKGROUND_RGB = {"white": (240, 240, 240), "grey": (132, 132, 132), "black": (22, 22, 22), "tan": (208, 182, 146)}
MARK_STEP = {"white": -48, "grey": -44, "black": 50, "tan": -48}
"""How much stripes and dots differ from their background, per channel."""


def render(scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene, uint8[96, 96, 3] RGB."""
    pixels = _background(scene.background, scene.texture).copy()
    for thing in scene.things:
        _paint(pixels, thing)
    noise = np.random.default_rng(scene.noise_seed).standard_normal(pixels.shape, dtype=np.float32)
    noise *= NOISE_STD
    pixels += noise
    return np.clip(np.rint(pixels, out=pixels), 0, 255, out=pixels).astype(np.uint8)


def _paint(pixels: NDArray[np.float32], thing: Thing) -> None:
    row, column = divmod(thing.cell, 3)
    cell = pixels[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    rgb = np.array(SHAPE_RGB[thing.colour], np.float32) + np.array(thing.tint, np.float32)
    cell[_mask(thing.shape, thing.radius, thing.dx, thing.dy)] = np.clip(rgb, 0, 255)


@cache
def _background(colour: str, texture: str) -> NDArray[np.float32]:
    """Plain, striped (level bands) or dotted, float32[96, 96, 3]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    marks = {
        "plain": np.zeros((SIDE, SIDE), bool),
        "striped": y % 8 < 4,
        "dotted": (x % 8 - 3.5) ** 2 + (y % 8 - 3.5) ** 2 < 5,
    }[texture]
    pixels = np.empty((SIDE, SIDE, 3), np.float32)
    pixels[:] = BACKGROUND_RGB[colour]
    pixels[marks] += MARK_STEP[colour]
    return pixels


@cache
def _mask(shape: str, radius: int, dx: int, dy: int) -> NDArray[np.bool_]:
    """Where a shape covers its cell, bool[32, 32]; ``radius`` is that of the circle around it."""
    y, x = np.mgrid[0:CELL, 0:CELL].astype(np.float32)
    x, y = x - (CELL - 1) / 2 - dx, y - (CELL - 1) / 2 - dy
    if shape == "circle":
        return x**2 + y**2 <= (0.94 * radius) ** 2
    if shape == "square":
        return np.maximum(abs(x), abs(y)) <= 0.82 * radius
    if shape == "triangle":  # level base, point upwards
        return (y <= 0.75 * radius) & (abs(x) <= (y + radius) * 0.57)
    if shape == "cross":
        thin, wide = 0.28 * radius, 0.95 * radius
        return ((abs(x) <= thin) & (abs(y) <= wide)) | ((abs(y) <= thin) & (abs(x) <= wide))
    return _star(x, y, radius * 1.12)


def _star(x: NDArray[np.float32], y: NDArray[np.float32], radius: float) -> NDArray[np.bool_]:
    """Five points, the first upwards: inside at least four of the five half planes of the pentagram."""
    angles = np.arange(5) * 2 * np.pi / 5 - np.pi / 2  # outward normals of the pentagram's lines; y grows downwards
    inner = radius * np.cos(2 * np.pi / 5)
    inside = sum((x * np.cos(a) + y * np.sin(a) <= inner).astype(int) for a in angles)
    return np.asarray(inside) >= 4
