"""Exported captioners in vLLM: loaded as they were written, and saying what they say in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
from captions import both
from serve_world import Served

pytestmark = pytest.mark.vllm


def test_llava_captions_as_in_transformers(llava_folder: Path, llava: Served) -> None:
    served, ours = both(llava_folder, llava, (56, 56))
    assert served == ours and all(ours)
