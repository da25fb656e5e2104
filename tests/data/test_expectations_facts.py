"""What the gates look at: tables of facts computed without opening a picture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.expectations.facts import repetition


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d e f", 0.0),
        ("a b c d a b c d", 0.2),  # 5 sequences, 4 different ones
        ("A b c D a B C d", 0.2),
        ("x " * 13, 0.9),  # 10 sequences, 1 different one
    ],
)
def test_repetition(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 4))
def test_saying_it_again_repeats_more(words: list[str], times: int) -> None:
    once, more = " ".join(words), " ".join(words * (times + 1))
    assert 0.0 <= repetition(once) < 1.0
    if len(words) >= 4:
        assert repetition(more) >= 1 - (len(words) + 0.0) / (len(words) * (times + 1) - 3) - 1e-12


def test_facts_need_no_great_expectations() -> None:
    code = "import sys, balcap.expectations.facts; print('great_expectations' in sys.modules)"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60, check=True)
    assert out.stdout.strip() == "False"
