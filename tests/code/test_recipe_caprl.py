"""The recipe ``caprl``: utility is the only reward, known for every training picture; the rest is `embedded`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import evaluation_world as world
import numpy as np
import pytest

from balcap import rewards
from balcap.collect import question_writer
from balcap.judge import make_judge
from balcap.params import load_params
from balcap.params.collect import CollectQuestions
from balcap.records import Caption, Picture
from balcap.training.judging import Group, Judging

RECIPES = Path(__file__).parents[2] / "recipes"
CAPRL, EMBEDDED = (load_params(RECIPES / f"{name}.yaml") for name in ("caprl", "embedded"))


def test_it_differs_from_the_embedded_default_in_what_it_is_about() -> None:
    """Everything up to training is the same, so that both share data and starting captioner."""
    ours, theirs = CAPRL.model_dump(), EMBEDDED.model_dump()
    different: dict[str, Any] = {key: ours[key] for key in ours if ours[key] != theirs[key]}
    assert set(different) == {"recipe", "train", "register_"}
    changed = {key for key, value in different["train"].items() if value != theirs["train"][key]}
    assert changed == {"steps", "reward_weights"}
    assert CAPRL.train.steps == 100 and CAPRL.train.reward_weights == {"utility": 1.0}
    assert CAPRL.train.judge.name == "oracle" and rewards.needed(CAPRL.train.reward_weights) == {"answers"}


def pictures(count: int) -> list[Picture]:
    """Training pictures with the questions that the recipe collects for them."""
    write = question_writer(CollectQuestions.model_validate(CAPRL.collect_questions.model_dump()), {}).write
    shown = [world.picture(i) for i in range(count)]
    stored = [replace(p, sample=replace(p.sample, split="train")) for p in shown]
    written = write([p.sample for p in stored])
    return [replace(p, questions=tuple(asked)) for p, asked in zip(stored, written, strict=True)]


def test_every_training_picture_has_a_known_utility_that_good_captions_earn() -> None:
    groups = [
        Group(p, [*world.captions(i), Caption("The scene feels calm."), Caption(""), Caption("A red", truncated=True)])
        for i, p in enumerate(pictures(12))
    ]
    parts = rewards.needed(CAPRL.train.reward_weights)
    judging = Judging(make_judge(CAPRL.train.judge, "train.judge", CAPRL.runtime, 60.0, parts), CAPRL.train)
    judging.dispatch(groups)
    scored = judging.collect()
    judging.close()
    assert judging.names == ("utility",) and judging.parts == ["answers"]
    table = np.stack([s.rewards[:, 0] for s in scored])
    assert np.isfinite(table).all() and not sum(s.unknown.sum() for s in scored)
    noisy, teacher, vague, empty, cut = table.mean(axis=0)
    assert teacher > noisy + 0.2 and vague == empty == cut == 0.0
    assert 0.8 < teacher < 1.0


def test_style_and_length_mean_nothing_to_it() -> None:
    picture = pictures(1)[0]
    good = world.captions(0)[1].text
    longer = " ".join([good] * 4) + " The scene feels calm."
    judging = Judging(make_judge(CAPRL.train.judge, "train.judge", CAPRL.runtime, 60.0), CAPRL.train)
    judging.dispatch([Group(picture, [Caption(good), Caption(longer)])])
    (scored,) = judging.collect()
    judging.close()
    assert scored.rewards[0, 0] == pytest.approx(scored.rewards[1, 0]) and scored.rewards[0, 0] > 0
    assert scored.text[1, 0] > 70.0 and scored.text[0, 0] == 0.0, "the detectors tell them apart"
