"""Real vLLM servers, one at a time and one per model; `make test-vllm` sets up what they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from serve_world import ROOT, Served, served

from balcap.workspace import work_root

LENGTH = "4096"
"""Tokens of prompt and answer; a longer prompt is refused."""


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A Qwen2.5-VL with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen-vl"
    subprocess.run([sys.executable, ROOT / "tools/tiny_qwen_vl.py", folder], check=True, timeout=300)
    with served(folder, "--length", LENGTH) as server:
        yield server


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Served]:
    """The real SmolLM2-135M-Instruct; its folder is kept between runs."""
    folder = work_root() / "models/SmolLM2-135M-Instruct"
    subprocess.run([sys.executable, ROOT / "tools/smollm2.py", folder], check=True, timeout=600)
    with served(folder, "--length", LENGTH) as server:
        yield server
