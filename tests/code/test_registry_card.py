"""The model card: facts as recorded, hostile text shown as text, unknown shown as unknown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.params import Params, check_params, read_params
from balcap.registry.card import METRICS, data_facts, examples, interval, number, plain, read_facts, render_card
from balcap.registry.version import DESCRIPTION, describe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params() -> Params:
    return check_params(read_params(ROOT / "recipes/embedded.yaml"))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Reports as the stages write them, with a hostile caption, author and licence."""
    known, unknown = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 8}, {"value": None, "low": None, "high": None, "n": 0}
    better = {"value": 0.25, "low": 0.125, "high": 0.375, "n": 8}
    sides = {
        "base": {key: known for key in METRICS} | {"arena": unknown},
        "policy": {key: known for key in METRICS},
        "difference": {key: better for key in METRICS} | {"arena": unknown},
    }
    write(tmp_path / "reports/evaluate/metrics.json", sides)
    write(tmp_path / "reports/train/summary.json", {"reward_last": 0.91234, "unknown_share": None})
    for gate in ("images", "references"):
        write(tmp_path / f"reports/validation/{gate}/summary.json", {"evaluated": 12})
    rows = [
        {"image_id": f"{i}" * 64, "model": model, "caption": f"{model} <script>1</script> **{i}**", "reference": "r"}
        for i in (2, 1) for model in ("policy", "base")
    ] + [{"image_id": "0" * 64, "model": "policy", "caption": "no base", "reference": "r"}]  # fmt: skip
    pd.DataFrame(rows).to_parquet(tmp_path / "reports/evaluate/samples.parquet")
    row = {
        "split": "train",
        "license": "CC-BY 4.0 | <b>",
        "source": "https://example.org/1",
        "author": "[x](javascript:0)",
    }
    (tmp_path / "data").mkdir()
    manifest = [row, {**row, "split": "eval", "author": None}]
    pd.DataFrame(manifest).to_parquet(tmp_path / "data/manifest.parquet")
    return tmp_path


def test_the_card_states_recorded_facts(root: Path, params: Params) -> None:
    card = render_card(read_facts(root, params, "aa11", "bb22"))
    assert card.startswith("# balcap-embedded\n")
    assert r"| b\_capscore | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] | +0.250 [0.125, 0.375] | 8 |" in card
    assert "| arena | – | 0.500 [0.400, 0.600] | – | 8 |" in card
    assert "judge `oracle` revision `1`" in card and "This judge also gave the rewards" in card
    assert "0.9123" in card and "aa11" in card and "bb22" in card
    assert "eval: 1 pictures; train: 1 pictures." in card
    assert params.register_.limits.split(";")[0] in card
    assert card == render_card(read_facts(root, params, "aa11", "bb22")), "no clock"


def test_a_language_model_is_named_with_its_weights(root: Path) -> None:
    params = check_params(read_params(ROOT / "recipes/embedded-llm-judge.yaml"))
    card = render_card(read_facts(root, params, "aa11", "bb22"))
    assert "judge `llm` revision `1` (oracle, weights truth-1)" in card and "judge `oracle` revision `1`," in card
    assert "This judge also gave the rewards" not in card


def test_hostile_text_is_shown_not_executed(root: Path, params: Params) -> None:
    card = render_card(read_facts(root, params, "a", "b"))
    assert "<" not in card.replace("&lt;", "")
    assert "&lt;script&gt;" in card
    assert "](javascript" not in card
    tables = [line for line in card.splitlines() if "CC" in line and line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in tables] == [3], "a bar in a licence makes no new column"


@given(st.text(alphabet=st.sampled_from("ab \n\t<>&`*_[]()!|#\\~:/+-.1\"'"), max_size=80))
def test_plain_text_cannot_become_markup(text: str) -> None:
    escaped = plain(text)
    assert "\n" not in escaped and "<" not in escaped and ">" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]|]", escaped)


def test_plain_keeps_words_and_cuts_long_text() -> None:
    assert plain("A red circle sits at the top-left.") == "A red circle sits at the top-left."
    assert plain("x" * 1000) == "x" * 299 + "…"


def test_unknown_numbers_are_dashes_not_zeros() -> None:
    assert [number(x) for x in (None, float("nan"), 0.0, 3, "a_b", True)] == ["–", "–", "0", "3", r"a\_b", "True"]
    assert interval({"value": None, "low": None, "high": None, "n": 0}) == "–"
    assert interval({"value": 0.0, "low": None, "high": None, "n": 1}) == "0.000"


def test_examples_are_pictures_that_both_captioned(root: Path) -> None:
    found = examples(root / "reports/evaluate/samples.parquet")
    assert [entry["image_id"][0] for entry in found] == ["1", "2"]
    assert found[0]["base"].startswith("base") and found[0]["policy"].startswith("policy")


def test_many_sources_are_summed_up(tmp_path: Path) -> None:
    rows = [{"split": "train", "license": None, "source": f"s{i:02}", "author": "a"} for i in range(20)]
    pd.DataFrame([*rows, rows[7]]).astype({"license": "string"}).to_parquet(tmp_path / "m.parquet")
    facts = data_facts(tmp_path / "m.parquet")
    assert facts["licenses"] == [("unknown", 21)]
    assert facts["sources"][0] == (("s07", "a", ""), 2) and facts["more_sources"] == 8


def test_a_long_card_fits_the_description_in_whole_lines() -> None:
    card = "\n".join(f"line {i}" for i in range(2000))
    text = describe(card)
    assert len(text) <= DESCRIPTION and "card.md" in text
    assert set(text.splitlines()[:-2]) <= set(card.splitlines())
    assert describe("short\n") == "short\n"
