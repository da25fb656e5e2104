"""Image sources: one file each, a function from the section ``prepare`` to the pictures it finds.

    for raw in SOURCES[params.source.name](params): ...

A new source is a file here, a line in ``SOURCES`` and a model in ``balcap.params.prepare``.
"""

from __future__ import annotations

from balcap.sources.base import RawImage, Source, SourceError
from balcap.sources.folder import folder
from balcap.sources.scenes import scenes

__all__ = ["SOURCES", "RawImage", "Source", "SourceError"]

SOURCES: dict[str, Source] = {"folder": folder, "scenes": scenes}
