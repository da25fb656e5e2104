"""Questions, arena, and the writers' scores against the numbers measured in ``miniature`` sections 2 and 3."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from balcap.records import CANNOT_BE_ANSWERED
from balcap.scenes import (
    Scene,
    answer,
    arena_opponents,
    arena_outcome,
    arena_points,
    arena_score,
    covered,
    draw_scene,
    marks,
    noisy_caption,
    parse,
    pointable,
    scene_questions,
    split_units,
    teacher_caption,
    verified,
)
from balcap.scenes.atoms import facts
from balcap.scenes.world import Thing

SCENES = [draw_scene(5, i, 1, 3) for i in range(1000)]
REFERENCES = [teacher_caption(scene, 0) for scene in SCENES]
SCENE = Scene(
    (
        Thing("circle", "red", "small", 0, 7, 0, 0, (0, 0, 0)),
        Thing("square", "blue", "large", 4, 11, 0, 0, (0, 0, 0)),
    ),
    background="tan",
    texture="dotted",
    noise_seed=0,
)
COMPLETE = (
    "There are two shapes. A small red circle sits at the top-left. A large blue square sits at the centre. "
    "The red circle is left of the blue square. The background is dotted tan."
)


@cache
def writer(name: str) -> list[str]:
    noise = {"noisy": 1.0, "third": 1 / 3, "none": 0.0}
    return REFERENCES if name == "teacher" else [noisy_caption(scene, 0, noise[name]) for scene in SCENES]


@cache
def scores(name: str) -> dict[str, float]:
    """Mean precision, recall, linguistic, question answering, words, arena points of a writer."""
    rows = []
    for scene, caption, reference in zip(SCENES, writer(name), REFERENCES, strict=True):
        atoms = parse(caption).atoms()
        questions = scene_questions(scene, 0, 99)
        rows.append(
            {
                "precision": np.mean([verified(atom, scene) and pointable(atom) for atom in atoms]),
                "recall": np.mean(covered(split_units(reference), caption)),
                "linguistic": (np.mean(marks(caption)) - 1) / 4,
                "qa": np.mean([answer(q.question, q.options, caption, 0) == q.answer for q in questions]),
                "words": len(caption.split()),
                "points": arena_points(scene, caption),
                "ratio_inside": 0.5 <= len(caption.split()) / len(reference.split()) <= 2,
            }
        )
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def test_the_teacher_is_as_measured() -> None:
    found = scores("teacher")
    assert found["precision"] == pytest.approx(0.987, abs=0.01)
    assert found["linguistic"] == 1.0 and found["recall"] == 1.0
    assert found["qa"] == pytest.approx(0.869, abs=0.02)
    assert found["words"] == pytest.approx(29.8, abs=1.0)
    assert found["points"] == pytest.approx(8.6, abs=0.4)
    assert np.mean([len(split_units(caption)) for caption in REFERENCES]) == pytest.approx(8.9, abs=0.3)
    stated = [len(facts(s) & set(parse(c).atoms())) / len(facts(s)) for s, c in zip(SCENES, REFERENCES, strict=True)]
    assert np.mean(stated) == pytest.approx(0.85, abs=0.02)


def test_the_noisy_captioner_is_as_measured() -> None:
    found = scores("noisy")
    assert found["precision"] == pytest.approx(0.58, abs=0.04)
    assert found["recall"] == pytest.approx(0.42, abs=0.04)
    assert found["linguistic"] == pytest.approx(0.81, abs=0.04)
    assert found["qa"] == pytest.approx(0.45, abs=0.04)
    assert found["words"] == pytest.approx(31.9, abs=1.5)
    assert np.std([len(caption.split()) for caption in writer("noisy")]) == pytest.approx(15.7, abs=2.0)
    assert found["ratio_inside"] == pytest.approx(0.81, abs=0.04)


def test_a_third_of_the_noise_lies_between() -> None:
    assert scores("third")["points"] == pytest.approx(3.8, abs=0.7)
    for key in ("precision", "recall", "linguistic", "qa", "points"):
        assert scores("noisy")[key] < scores("third")[key] < scores("none")[key]
    assert scores("none")["precision"] == 1.0 and scores("none")["linguistic"] == 1.0


def test_noise_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="noise"):
        noisy_caption(SCENE, 0, noise=1.5)


def test_a_complete_caption_answers_every_question() -> None:
    questions = scene_questions(SCENE, seed=1, limit=99)
    assert len(questions) == 10
    assert all(answer(q.question, q.options, COMPLETE, 0) == q.answer for q in questions)
    assert all(answer(q.question, q.options, "The scene feels calm.", 0) == CANNOT_BE_ANSWERED for q in questions)
    assert all(answer(q.question, q.options, "", 0) == CANNOT_BE_ANSWERED for q in questions)


def test_questions_are_valid_stable_and_limited() -> None:
    positions = Counter()
    for scene in SCENES[:300]:
        questions = scene_questions(scene, 3, 6)
        assert questions == scene_questions(scene, 3, 6) and len(questions) == min(6, len(questions))
        for q in questions:
            assert len(set(q.options)) == len(q.options) >= 2
            positions[q.answer / (len(q.options) - 1) <= 0.5] += 1
    assert 0.4 < positions[True] / positions.total() < 0.7  # the right option stands anywhere
    assert np.mean([len(scene_questions(scene, 3, 99)) for scene in SCENES]) == pytest.approx(10.2, abs=0.3)


def test_number_and_side_follow_from_placed_things() -> None:
    caption = "A red circle sits at the top-left. A blue square sits at the centre."
    assert answer("How many shapes are there?", ("one", "two", "three"), caption, 0) == 1
    side = "Is the blue square left of or right of the red circle?"
    assert answer(side, ("left of", "right of"), caption, 0) == 1
    assert answer(side, ("left of", "right of"), "The red circle is right of the blue square.", 0) == 0
    assert answer(side, ("left of", "right of"), "A red circle sits at the top-left.", 0) == CANNOT_BE_ANSWERED


def test_contradicting_answers_share_the_point() -> None:
    caption = (
        "A red circle sits at the top-left. A blue circle sits at the top-left. A green circle sits at the top-left."
    )
    options = ("blue", "red", "green", "purple")
    drawn = Counter(answer("What colour is the shape at the top-left?", options, caption, seed) for seed in range(900))
    assert set(drawn) == {0, 1, 2}
    assert all(share / 900 == pytest.approx(1 / 3, abs=0.06) for share in drawn.values())


def test_a_value_that_is_no_option_answers_nothing() -> None:
    options = ("white", "grey", "black", "tan")
    assert answer("What colour is the background?", options, "The background is red.", 0) == CANNOT_BE_ANSWERED


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="not a question about a scene"):
        answer("Who painted this?", ("a", "b"), COMPLETE, 0)


def test_arena_points_are_counted_by_hand() -> None:
    assert arena_points(SCENE, COMPLETE) == 10
    assert arena_points(SCENE, COMPLETE + " The scene feels calm.") == 9
    assert arena_points(SCENE, "The background is plain tan.") == 1 - 1.5
    assert arena_points(SCENE, "The background is tan. The background is tan.") == 1 - 2


def test_the_arena_needs_a_margin_and_is_fair() -> None:
    assert arena_outcome(SCENE, COMPLETE, COMPLETE + " The scene feels calm.") == 0
    assert arena_outcome(SCENE, COMPLETE, COMPLETE + " The scene feels calm. The layout adds depth.") == 1
    for scene, reference in zip(SCENES[:100], REFERENCES, strict=False):
        opponents = arena_opponents(scene, reference, 1)
        assert arena_outcome(scene, reference, opponents[2]) == -arena_outcome(scene, opponents[2], reference)
        assert -1 <= arena_score(scene, noisy_caption(scene, 2), opponents) <= 1
    assert arena_score(SCENE, COMPLETE, ("The background is tan.", COMPLETE)) == 0.5
