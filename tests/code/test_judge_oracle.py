"""The oracle as a judge: its seam, near 1 on references, near 0 on known bad captions, and its cost."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
from runtime_world import runtime

from balcap.collect.scenes import write_questions, write_reference
from balcap.judge import JUDGES, make_judge
from balcap.judge.oracle import Oracle
from balcap.llm.base import Mismatch
from balcap.params.judge import NoisyJudge, RuleJudge
from balcap.records import MARKS, Caption, Judge, Judgement, Question, Sample
from balcap.scenes import draw_scene, noisy_caption, parse

SAMPLES = [
    Sample(f"{i:064x}", b"", "train", "scenes", "CC0-1.0", {"scene": draw_scene(6, i, 1, 3).to_json()})
    for i in range(120)
]
REFERENCES = [write_reference(sample, 11) for sample in SAMPLES]


RUNTIME = runtime()


def judge(i: int, *texts: str, questions: tuple[Question, ...] = (), oracle: Oracle | None = None) -> list[Judgement]:
    captions = [Caption(text) for text in texts]
    return asyncio.run((oracle or Oracle()).judge_group(SAMPLES[i], REFERENCES[i], captions, questions))


def precision(judgement: Judgement) -> float:
    assert judgement.assertions is not None
    return float(np.mean([a.verified and a.pointable for a in judgement.assertions])) if judgement.assertions else 0.0


def linguistic(judgement: Judgement) -> float:
    return (np.mean([judgement.clarity, judgement.fluency, judgement.coherency]) - 1) / 4  # type: ignore[list-item]


def test_it_fulfils_the_seam_and_is_pinned_by_revision() -> None:
    pinned = RuleJudge(name="oracle", revision=Oracle.revision, max_failure_rate=0.0)
    oracle = make_judge(pinned, "train.judge", RUNTIME, 60.0)
    assert isinstance(oracle, Oracle) and isinstance(oracle, Judge)
    with pytest.raises(Mismatch, match=r"^evaluate\.judge\.revision = '0'"):
        make_judge(pinned.model_copy(update={"revision": "0"}), "evaluate.judge", RUNTIME, 60.0)


def test_every_judge_that_parameters_allow_exists() -> None:
    allowed = RuleJudge.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
    assert set(JUDGES) == set(allowed)
    assert all(make().name == name for name, make in JUDGES.items())


def test_references_score_near_one() -> None:
    found = [judge(i, REFERENCES[i].caption)[0] for i in range(len(SAMPLES))]
    assert np.mean([precision(j) for j in found]) > 0.97
    assert all(all(j.covered or ()) and len(j.covered or ()) == len(REFERENCES[i].units) for i, j in enumerate(found))
    assert all(linguistic(j) == 1.0 for j in found)


def test_known_bad_captions_score_near_zero() -> None:
    junk = "dog dog running the over lamp. of of the. shiny and and bicycle the. seems by. it it to"
    for i in range(40):
        comments, nonsense, empty = judge(i, "The scene feels calm. The layout adds depth.", junk, "")
        assert precision(comments) == precision(nonsense) == 0.0 and empty.assertions == ()
        assert not any((*(comments.covered or ()), *(nonsense.covered or ()), *(empty.covered or ())))
        assert nonsense.fluency == 1 and linguistic(empty) == 0.0


def test_a_caption_of_another_picture_is_fluent_and_wrong() -> None:
    found = [judge(i, REFERENCES[(i + 1) % len(SAMPLES)].caption)[0] for i in range(len(SAMPLES))]
    assert np.mean([precision(j) for j in found]) < 0.35
    assert np.mean([np.mean(j.covered) for j in found]) < 0.35  # type: ignore[arg-type]
    assert all(linguistic(j) == 1.0 for j in found)


def test_repeated_assertions_stay_so_that_padding_pays() -> None:
    reference = REFERENCES[0].caption
    wrong = "The background is white and the background is grey."
    once, padded = judge(0, f"{reference} {wrong}", f"{reference} {reference} {wrong}")
    assert len(padded.assertions or ()) == len(once.assertions or ()) + len(parse(reference).atoms())
    assert precision(padded) > precision(once)
    assert linguistic(padded) < linguistic(once)


def test_one_judgement_per_caption_in_order_and_equal_texts_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, judged = Oracle(), []
    original = Oracle._judge
    monkeypatch.setattr(Oracle, "_judge", lambda self, *args: judged.append(args[2]) or original(self, *args))
    good, bad = REFERENCES[0].caption, "The scene feels calm."
    found = judge(0, good, bad, good, bad, bad, oracle=oracle)
    assert judged == [good, bad]
    assert found[0] == found[2] != found[1] == found[3] == found[4]


def test_without_a_scene_everything_is_unknown_and_counted() -> None:
    oracle = Oracle()
    for meta in ({}, {"scene": {"things": []}}):
        sample = Sample("0" * 64, b"", "train", "folder", "CC0-1.0", meta)
        found = asyncio.run(oracle.judge_group(sample, REFERENCES[0], [Caption("A circle."), Caption("")]))
        assert found == [Judgement(), Judgement()]
    assert oracle.failures == {"no scene": 4}


def test_questions_are_answered_from_the_caption() -> None:
    right = [0.0]
    for i, sample in enumerate(SAMPLES):
        questions = tuple(write_questions(sample, 12, 10))
        assert 4 <= len(questions) <= 10
        assert all(q.image_id == sample.image_id and q.accuracy_with_image == 1.0 for q in questions)
        assert all(q.accuracy_without_image == 1 / len(q.options) for q in questions)
        own, silent = judge(i, REFERENCES[i].caption, "The scene feels calm.", questions=questions)
        right += [answer == (q.answer,) for q, answer in zip(questions, own.answers or (), strict=True)]
        assert set(silent.answers or ()) == {(-1,)}
    assert np.mean(right) == pytest.approx(0.87, abs=0.04)


def test_a_foreign_question_makes_answers_unknown_not_wrong() -> None:
    oracle = Oracle()
    foreign = Question(SAMPLES[0].image_id, "Who painted this?", ("Klee", "Miro"), 0, 1.0, 0.5)
    found = judge(0, REFERENCES[0].caption, questions=(foreign,), oracle=oracle)[0]
    assert found.answers is None and found.clarity == 5
    assert oracle.failures == {"not a question about a scene": 1}


def test_a_caption_costs_milliseconds_at_most() -> None:
    """Measured is about 0.2 ms; the goal, a share of a training step, is the benchmark's (``embedded_step``)."""
    captions = [[noisy_caption(draw_scene(6, i, 1, 3), k) for k in range(8)] for i in range(len(SAMPLES))]
    judge(0, "warm up")
    start = time.process_time()
    for i, texts in enumerate(captions):
        judge(i, *texts)
    assert (time.process_time() - start) / (8 * len(SAMPLES)) < 5e-3


def test_noise_has_its_size_stays_with_its_caption_and_spares_answers() -> None:
    params = NoisyJudge(
        name="noisy", revision=Oracle.revision, max_failure_rate=0.0, flip=0.1, shift=0.3, seed=4
    )  # fmt: skip
    noisy = make_judge(params, "train.judge", RUNTIME, 60.0)
    texts = [noisy_caption(draw_scene(6, i, 1, 3), i) for i in range(len(SAMPLES))]

    def all_of(judge_: Judge) -> list[Judgement]:
        return [
            asyncio.run(judge_.judge_group(sample, reference, [Caption(text)], write_questions(sample, 12, 4)))[0]
            for sample, reference, text in zip(SAMPLES, REFERENCES, texts, strict=True)
        ]

    exact, found = all_of(Oracle()), all_of(noisy)
    assert found == all_of(make_judge(params, "train.judge", RUNTIME, 60.0))  # always the same errors
    verdicts = [
        (a.verified, b.verified)
        for one, other in zip(exact, found, strict=True)
        for a, b in zip(one.assertions or (), other.assertions or (), strict=True)
    ]
    assert len(verdicts) > 800 and np.mean([a != b for a, b in verdicts]) == pytest.approx(0.1, abs=0.03)
    marks = [(getattr(a, m), getattr(b, m)) for a, b in zip(exact, found, strict=True) for m in MARKS]
    moved = np.array([abs(a - b) for a, b in marks])
    assert set(moved) == {0, 1} and moved.mean() == pytest.approx(0.3, abs=0.08)
    assert {b for _, b in marks} <= {1, 2, 3, 4, 5}
    assert [j.answers for j in exact] == [j.answers for j in found]
