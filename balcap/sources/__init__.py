"""Image sources: one file each, a function from the section ``prepare`` to the pictures it finds.

for raw in SOURCES[params.source.name](params): ...
"""

from __future__ import annotations

from balcap.sources.base import RawImage, Source
from balcap.sources.scenes import scenes

__all__ = ["SOURCES", "RawImage", "Source"]

SOURCES: dict[str, Source] = {"scenes": scenes}
