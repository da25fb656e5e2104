"""A thousand captions before both judges: the oracle in process, and behind endpoint, client and cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import train_world
from evaluation_world import picture
from oracle_world import PARAMS, Counted, Group, ask, by_rule, served

from balcap.images import decode
from balcap.policy.build import build_tiny
from balcap.policy.generate import generate_captions
from balcap.policy.store import Policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.records import Caption, Picture
from balcap.scenes import VOCABULARY, Scene, noisy_caption, teacher_caption

ROUNDS = 1
PARTS = ("assertions", "covered", "clarity", "fluency", "coherency", "answers")


def sampled(pictures: list[Picture], per_picture: int) -> list[list[Caption]]:
    """What an untrained captioner says: words of the world in any order, about half of them cut off at the limit."""
    model, processor = build_tiny(train_world.TINY, word_tokenizer(VOCABULARY, "describe"), seed=0)
    policy = Policy(model, processor, "describe", restore_capitals=True, max_new_tokens=60)
    shown = [decode(p.sample.image) for p in pictures for _ in range(per_picture)]
    said = generate_captions(policy, shown, temperature=1.0, max_new_tokens=60, seed=0, batch_size=128)
    return [said[i : i + per_picture] for i in range(0, len(said), per_picture)]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """100 pictures with 10 captions each: 2 of the teacher, 5 of the noisy captioner, 3 of an untrained one."""
    pictures = [picture(i) for i in range(100)]
    scenes = [Scene.from_json(p.sample.meta["scene"]) for p in pictures]
    written = [
        [*(teacher_caption(scene, n) for n in range(2)), *(noisy_caption(scene, n) for n in range(5))]
        for scene in scenes
    ]
    return [
        (p, [*map(Caption, texts), *random])
        for p, texts, random in zip(pictures, written, sampled(pictures, 3), strict=True)
    ]


def test_verdicts_on_a_thousand_captions_are_those_of_the_rule(groups: list[Group], tmp_path: Path) -> None:
    params = PARAMS.model_copy(update={"rounds": ROUNDS})
    oracle = Counted([p.sample for p, _ in groups])
    with served(oracle) as url:
        judged, judge = ask(url, tmp_path, groups, PARTS, params)
        issued = sum(oracle.calls.values())
        again, warm = ask(url, tmp_path, groups, PARTS, params)
    assert sum(len(texts) for _, texts in groups) == 1000
    complete = 0
    for (_, texts), said, rule in zip(groups, judged, by_rule(groups, ROUNDS), strict=True):
        for caption, remote, local in zip(texts, said, rule, strict=True):
            complete += not caption.truncated
            for part in PARTS:
                expected = getattr(local, part)
                assert getattr(remote, part) == (None if caption.truncated and part != "answers" else expected), caption
    assert 700 < complete < 1000, "captions of all kinds, cut-off ones among them"
    assert not judge.failures and not warm.failures
    assert again == judged and sum(oracle.calls.values()) == issued, "the second time nothing is asked"
