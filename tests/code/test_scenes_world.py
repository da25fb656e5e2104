"""The embedded world: scenes, pictures, writers; statistics against ``miniature`` section 2."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.params.prepare import Prepare
from balcap.scenes import (
    VOCABULARY,
    Scene,
    clean_sentences,
    draw_scene,
    noisy_caption,
    parse,
    render,
    teacher_caption,
    verified,
)
from balcap.scenes.grammar import well_formed
from balcap.scenes.render import CELL
from balcap.scenes.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Thing
from balcap.sources import SOURCES

SCENES = [draw_scene(3, i, 1, 3) for i in range(600)]


def words(text: str) -> list[str]:
    return text.lower().replace(".", " . ").split()


def scene_of(shape: str, colour: str, size: str = "large", background: str = "white", texture: str = "plain") -> Scene:
    thing = Thing(shape, colour, size, 4, {"small": 7, "large": 11}[size], 0, 0, (0, 0, 0))
    return Scene((thing,), background, texture, noise_seed=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 8))
def test_a_scene_survives_json_and_is_drawn_again_alike(seed: int, index: int, low: int, more: int) -> None:
    high = min(9, low + more)
    scene = draw_scene(seed, index, low, high)
    assert draw_scene(seed, index, low, high) == scene
    assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene
    assert low <= len(scene.things) <= high
    cells = [thing.cell for thing in scene.things]
    assert cells == sorted(set(cells))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda raw: raw.pop("texture"),
        lambda raw: raw.update(background="pink"),
        lambda raw: raw["things"][0].update(shape="blob"),
        lambda raw: raw["things"].append(raw["things"][0]),
        lambda raw: raw["things"][0].pop("tint"),
    ],
)
def test_what_is_no_scene_is_refused(break_it: object) -> None:
    raw = json.loads(json.dumps(SCENES[0].to_json()))
    break_it(raw)  # type: ignore[operator]
    with pytest.raises(ValueError, match="not the facts of a scene"):
        Scene.from_json(raw)


def test_numbers_of_objects_and_facts_are_as_frequent_as_described() -> None:
    counts = Counter(len(scene.things) for scene in SCENES)
    assert [counts[n] / len(SCENES) for n in (1, 2, 3)] == pytest.approx([0.2, 0.4, 0.4], abs=0.06)
    for attribute, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)):
        shares = Counter(getattr(thing, attribute) for scene in SCENES for thing in scene.things)
        total = sum(shares.values())
        assert [shares[v] / total for v in values] == pytest.approx([1 / len(values)] * len(values), abs=0.05)


def test_rendering_depends_on_the_scene_alone() -> None:
    scene = SCENES[0]
    first = render(scene)
    assert first.shape == (96, 96, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render(Scene.from_json(scene.to_json())))
    assert not np.array_equal(first, render(SCENES[1]))


def test_each_thing_is_painted_in_its_cell_in_its_colour() -> None:
    for scene in SCENES[:40]:
        empty = render(Scene((), scene.background, scene.texture, scene.noise_seed)).astype(int)
        changed = np.abs(render(scene).astype(int) - empty).sum(axis=2) > 0
        cells = changed.reshape(3, CELL, 3, CELL).any(axis=(1, 3)).reshape(9)
        assert cells.nonzero()[0].tolist() == [thing.cell for thing in scene.things]


def test_attributes_can_be_told_apart_by_the_pixels() -> None:
    """Any two kinds of picture differ by much more than noise, jitter and tint can."""
    things = product(SHAPES, COLOURS, SIZES, ["grey"], ["plain"])
    kinds = [*things, *product(["star"], ["red"], ["small"], BACKGROUNDS, TEXTURES)]
    pictures = [render(scene_of(*kind)).astype(np.int16) for kind in dict.fromkeys(kinds)]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert (np.abs(one - other).max(axis=2) > 40).sum() >= 12


def test_writers_use_the_vocabulary_and_repeat_themselves_for_equal_seeds() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) and 100 <= len(VOCABULARY) <= 120
    for scene in SCENES[:200]:
        texts = [teacher_caption(scene, 1), noisy_caption(scene, 1), *clean_sentences(scene, Random(1), 8)]
        assert set(words(" ".join(texts))) <= set(VOCABULARY)
        assert texts[:2] == [teacher_caption(scene, 1), noisy_caption(scene, 1)]
        assert all(text[0].isupper() and text.endswith(".") for text in texts)
    assert len({teacher_caption(SCENES[5], seed) for seed in range(20)}) > 5


def test_clean_sentences_are_true_well_formed_and_mostly_place_first_objects() -> None:
    rng = Random(0)
    found = [(scene, text) for scene in SCENES for text in clean_sentences(scene, rng)]
    for scene, text in found:
        assert well_formed(text.lower()[:-1])
        assert all(verified(atom, scene) for atom in parse(text).atoms())
    objects = [text for _, text in found if any(f"at the {place}" in text.lower() for place in PLACES)]
    first = [text for text in objects if text.startswith("At the")]
    assert len(objects) / len(found) == pytest.approx(0.78, abs=0.03)
    assert len(first) / len(objects) == pytest.approx(0.6, abs=0.03)


def test_nine_objects_can_be_described_and_asked_about() -> None:
    scene = draw_scene(0, 0, 9, 9)
    caption = teacher_caption(scene, 0)
    assert set(words(caption)) <= set(VOCABULARY)
    assert all(well_formed(part) for part in caption.lower().rstrip(".").split(". "))


@pytest.mark.parametrize(("low", "high"), [(0, 3), (3, 2), (1, 10)])
def test_impossible_numbers_of_objects_are_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 9"):
        draw_scene(0, 0, low, high)


def test_the_source_lists_pictures_that_can_be_drawn_elsewhere() -> None:
    raw = {
        "path": "balcap/scenes",
        "source": {"name": "scenes", "seed": 7, "count": 3, "min_objects": 1, "max_objects": 3},
        "images": {"size": 96, "format": "png", "quality": None},
        "limits": {"max_pixels": 10**6, "max_bytes": 10**6, "min_side": 16, "max_reject_share": 0.0},
        "split": {"seed": 0, "eval_share": 0.5},
        "shard_size": 10,
    }
    found = list(SOURCES["scenes"](Prepare.model_validate(raw)))
    assert [item.origin for item in found] == ["scene-00000000", "scene-00000001", "scene-00000002"]
    for i, item in enumerate(found):
        scene = Scene.from_json(item.meta["scene"])
        assert scene == draw_scene(7, i, 1, 3)
        assert np.array_equal(pickle.loads(pickle.dumps(item.load))(), render(scene))
        assert item.license and item.author and item.source
