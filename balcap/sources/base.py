"""The seam between where pictures come from and how ``prepare`` stores them.

    def my_source(params: Prepare) -> Iterable[RawImage]: ...      # one file; then a line in SOURCES

A source lists what it has, lazily and in a fixed order; it opens nothing. Decoding, limits, identity and rejection
are the same for all of them (``balcap.images``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from balcap.params.prepare import Prepare


class SourceError(ValueError):
    """A fault of a source as a whole, or of what it gave; the message names the file or key, and the fix."""


@dataclass(frozen=True)
class RawImage:
    """A picture that a source knows of, not yet read.

    ``origin`` names it in the manifest and in the rejects table: a path relative to ``prepare.path``, or a made-up
    name such as ``scene-00000012``. ``load`` gives the encoded bytes, or ``uint8[height, width, 3]`` RGB pixels; it can
    be pickled, and may raise ``OSError``.
    """

    origin: str
    load: Callable[[], bytes | NDArray[np.uint8]]
    source: str
    author: str
    license: str
    meta: Mapping[str, Any] = field(default_factory=dict)


Source = Callable[[Prepare], Iterable[RawImage]]
