"""Real vLLM servers, one at a time and one per model; `make test-vllm` sets up what they need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import twins
from serve_world import ROOT, Served, served

from balcap.policy.folder import write_note
from balcap.policy.store import load_policy, save_policy
from balcap.workspace import work_root

LENGTH = "4096"
"""Tokens of prompt and answer; a longer prompt is refused."""


EXACT = ("--", "--dtype", "float32")
"""So that random weights, which hardly prefer one token to another, say what they say in transformers."""


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-VL with random weights, read and written again as a trained captioner is."""
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen-vl"
    made = folder.with_name("made")
    subprocess.run([sys.executable, ROOT / "tools/tiny_qwen_vl.py", made], check=True, timeout=300)
    write_note(made, twins.PROMPT, restore_capitals=False, max_new_tokens=24)
    save_policy(load_policy(made), folder)
    return folder


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> Iterator[Served]:
    """That captioner."""
    with served(qwen_folder, "--length", LENGTH, *EXACT) as server:
        yield server


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twin of LLaVA-1.5, read and written again as a trained captioner is."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    save_policy(load_policy(twins.base("llava", folder.with_name("base"))), folder)
    return folder


@pytest.fixture(scope="module")
def llava(llava_folder: Path) -> Iterator[Served]:
    """That captioner."""
    with served(llava_folder, "--length", "1024", *EXACT) as server:
        yield server


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Served]:
    """The real SmolLM2-135M-Instruct; its folder is kept between runs."""
    folder = work_root() / "models/SmolLM2-135M-Instruct"
    subprocess.run([sys.executable, ROOT / "tools/smollm2.py", folder], check=True, timeout=600)
    with served(folder, "--length", LENGTH) as server:
        yield server
