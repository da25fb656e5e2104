"""Pictures of the procedural world (`balcap.scenes`): drawn from seed and index, facts kept in ``meta["scene"]``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from balcap.params.prepare import Prepare, ScenesSource
from balcap.scenes import draw_scene, render
from balcap.sources.base import RawImage

LICENSE = "CC0-1.0"


def scenes(params: Prepare) -> Iterator[RawImage]:
    """``params.source.count`` pictures, ``scene-00000000`` onwards, 96 x 96 RGB."""
    source = params.source
    assert isinstance(source, ScenesSource)
    for index in range(source.count):
        scene = draw_scene(source.seed, index, source.min_objects, source.max_objects)
        yield RawImage(
            origin=f"scene-{index:08}",
            load=partial(render, scene),
            source="balcap scenes",
            author="balcap",
            license=LICENSE,
            meta={"scene": scene.to_json()},
        )
