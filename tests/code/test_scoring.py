"""``balcap.score`` as a notebook uses it."""

from __future__ import annotations

import asyncio
import io
import math
from pathlib import Path

import pytest
from evaluation_world import picture
from PIL import Image

import balcap
from balcap.images import Rejected
from balcap.records import Caption, Reference

REFERENCE = "A white tower stands on a rocky hill. Two small boats lie in the harbour."


def png(colour: str = "white") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_caption_is_scored_by_its_words() -> None:
    got = balcap.score(png(), "A white tower stands on a rocky hill.", REFERENCE)
    assert got.judge == "lexical"
    assert got.rewards == {"precision": 1.0, "recall": 0.5, "linguistic": 1.0}
    assert got.judgement.covered == (True, False)
    assert got.length_ratio == pytest.approx(8 / 15)
    assert balcap.score(png(), "A black tower stands on a rocky hill.", REFERENCE).rewards["precision"] == 0.0


def test_all_kinds_of_picture_are_the_same_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    pictures = [png(), path, str(path), Image.open(path)]
    identities = {balcap.score(image, "A tower.", REFERENCE).reference.image_id for image in pictures}
    assert len(identities) == 1


def test_a_scene_is_scored_by_the_oracle() -> None:
    shown = picture(0)
    got = balcap.score(shown.sample, shown.reference.caption, shown.reference)
    assert got.judge == "oracle"
    assert got.rewards["recall"] == 1.0 and got.rewards["linguistic"] == 1.0


def test_a_scenes_reference_given_as_text_has_the_units_of_the_pipeline() -> None:
    shown = picture(0)
    assert balcap.score(shown.sample, "A.", shown.reference.caption).reference.units == shown.reference.units
    text = "A small red circle sits at the top-left."
    half = balcap.score(shown.sample, "A circle sits at the top-left.", text)
    assert half.rewards["recall"] == pytest.approx(1 / 3)  # of shape, colour and size


def test_a_reference_with_its_own_units_is_taken_as_it_is() -> None:
    reference = Reference("0", REFERENCE, ("A white tower.", "A hill.", "Boats."), "me", "")
    assert len(balcap.score(png(), "A white tower.", reference).judgement.covered or ()) == 3


def test_an_empty_or_truncated_caption_is_worth_nothing_and_an_empty_reference_unknown() -> None:
    assert set(balcap.score(png(), "", REFERENCE).rewards.values()) == {0.0}
    assert set(balcap.score(png(), Caption("A tower.", truncated=True), REFERENCE).rewards.values()) == {0.0}
    assert math.isnan(balcap.score(png(), "A tower.", "").rewards["recall"])


def test_it_works_inside_a_running_event_loop() -> None:
    async def notebook() -> float:
        return balcap.score(png(), "A white tower.", REFERENCE).rewards["precision"]

    assert asyncio.run(notebook()) == 1.0


def test_the_name_stays_a_function_after_its_first_use() -> None:
    balcap.score(png(), "A tower.", REFERENCE)
    assert callable(balcap.score)


@pytest.mark.parametrize(
    ("image", "error"), [(b"no picture", Rejected), ("nowhere.png", FileNotFoundError), (7, TypeError)]
)
def test_what_is_no_picture_is_refused(image: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        balcap.score(image, "A tower.", REFERENCE)  # type: ignore[arg-type]
