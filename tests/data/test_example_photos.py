"""The committed example: two dozen photographs with authors, and annotations that belong to them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from balcap.images import decode

FOLDER = Path(__file__).parents[2] / "data/examples/photos"


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_every_picture_has_author_source_and_a_free_licence() -> None:
    photos = {row["image"]: row for row in rows("photos.jsonl")}
    assert set(photos) == {f"images/{path.name}" for path in (FOLDER / "images").iterdir()}
    assert len(photos) == 24
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for image, row in photos.items():
        assert row["author"] and row["source"].startswith("https://")
        assert row["license"] in ("Public Domain", "CC0-1.0")
        assert row["author"] in readme and row["source"] in readme
        assert decode((FOLDER / image).read_bytes()).size == (row["width"], row["height"])


@pytest.mark.parametrize(("name", "each"), [("captions.jsonl", 1), ("questions.jsonl", 2), ("assertions.jsonl", 8)])
def test_annotations_belong_to_the_pictures(name: str, each: int) -> None:
    counts = Counter(row["image"] for row in rows(name))
    assert counts == {row["image"]: each for row in rows("photos.jsonl")}


def test_variants_are_of_the_captions() -> None:
    captions = {row["image"]: row["caption"] for row in rows("captions.jsonl")}
    for row in rows("variants.jsonl"):
        words = len(captions[row["image"]].split())
        assert len(row["short"].split()) < words / 2 and len(row["padded"].split()) > words
        assert row["hallucinated"] != captions[row["image"]] != row["disfluent"] and len(row["hallucinated_facts"]) == 3


def test_captions_come_with_units_and_questions_with_their_answer() -> None:
    for row in rows("captions.jsonl"):
        assert 80 <= len(row["caption"].split()) <= 120
        assert len(row["units"]) == len(set(row["units"])) >= 10
    for row in rows("questions.jsonl"):
        assert len(set(row["options"])) == 4 and row["answer"] in row["options"]
