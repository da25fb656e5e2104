"""The protocols: question answering, arena, rewards and length of one caption; the judge before its deadline."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import replace

import pytest
from evaluation_world import PARAMS, captions, picture, results

from balcap.evaluation import judging, qa
from balcap.evaluation.arena import arena, picture_seed
from balcap.evaluation.cases import COLUMNS
from balcap.evaluation.length import length_scores
from balcap.evaluation.rewards import reward_scores
from balcap.evaluation.run import NothingToEvaluate, take_pictures
from balcap.judge import JUDGES
from balcap.judge.guard import Guard
from balcap.records import CANNOT_BE_ANSWERED, Caption, Judgement, Question, Reference

QUESTIONS = tuple(Question("0", f"q{i}", ("a", "b", "c"), i, 1.0, 0.3) for i in range(3))


def test_question_answering_counts_right_rounds_and_no_abstention() -> None:
    answers = ((0, 0), (1, CANNOT_BE_ANSWERED), (CANNOT_BE_ANSWERED, CANNOT_BE_ANSWERED))
    assert qa.accuracy(Judgement(answers=answers), QUESTIONS) == pytest.approx((1 + 0.5 + 0) / 3)
    assert qa.accuracy(Judgement(answers=((1,), (0,), (-1,))), QUESTIONS) == 0.0


def test_question_answering_is_unknown_without_questions_or_answers() -> None:
    assert math.isnan(qa.accuracy(Judgement(answers=()), ()))
    assert math.isnan(qa.accuracy(Judgement(answers=None), QUESTIONS))


def test_answers_to_other_questions_are_unknown() -> None:
    assert math.isnan(qa.accuracy(Judgement(answers=((0,),)), QUESTIONS))


def test_the_reference_beats_an_empty_caption_in_the_arena() -> None:
    for index in range(8):
        shown = picture(index)
        best, empty = arena(shown.sample, shown.reference, [Caption(shown.reference.caption), Caption("")], seed=1)
        assert -1 <= empty < best <= 1
        assert best >= 0  # it ties with itself and is at least as good as the noisy ones


def test_the_arena_does_not_apply_to_photographs() -> None:
    shown = picture(0)
    assert math.isnan(arena(replace(shown.sample, meta={}), shown.reference, [Caption("A cat.")], seed=1)[0])


def test_opponents_belong_to_the_picture_not_to_its_place() -> None:
    assert picture_seed(1, "ab") == picture_seed(1, "ab") != picture_seed(1, "ac")
    assert picture_seed(1, "ab") != picture_seed(2, "ab")


def test_rewards_are_not_masked_by_length() -> None:
    reference = Reference("0", " ".join(["word"] * 100), ("A unit.",), "file", "")
    judged = Judgement(assertions=(), covered=(False,), clarity=5, fluency=5, coherency=3)
    scores = reward_scores(
        frozenset({"assertions", "covered", "clarity", "fluency", "coherency"}), judged, Caption("Hi."), reference
    )
    assert scores["linguistic"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert (scores["precision"], scores["recall"]) == (0.0, 0.0)


def test_what_the_judge_never_fills_is_unknown_even_for_an_empty_caption() -> None:
    reference = Reference("0", "A cat.", ("A cat.",), "file", "")
    scores = reward_scores(frozenset({"covered"}), Judgement(covered=(False,)), Caption(""), reference)
    assert math.isnan(scores["precision"]) and math.isnan(scores["linguistic"])
    assert scores["recall"] == 0.0


def test_length_in_words() -> None:
    reference = Reference("0", "one two three four", (), "file", "")
    assert length_scores(Caption("a b"), reference) == {"words": 2.0, "length_ratio": 0.5}


def test_faults_of_wording_stand_in_every_row_and_in_the_corpus() -> None:
    groups = [[Caption("A red red circle sits here."), Caption("This is a complete description.")] for _ in range(3)]
    found = results(3, groups=groups)
    assert found.cases[0].base.scores["repetition"] == pytest.approx(100 / 6)
    assert found.cases[0].policy.scores["self_praise"] == pytest.approx(20.0)
    change = found.scores["difference"]["self_praise"]
    assert (change.value, change.low, change.high, change.n) == (20.0, 20.0, 20.0, 3)
    assert found.scores["difference"]["hedging"].value == 0.0


def test_the_teacher_is_better_than_the_noisy_captioner_in_every_score() -> None:
    scores = results(24).scores
    for name in ("precision", "recall", "linguistic", "b_capscore", "qa_accuracy", "arena"):
        change = scores["difference"][name]
        assert change.n == 24 and change.low is not None and change.low > 0, name


def test_every_row_has_every_column() -> None:
    for case in results(2).cases:
        assert set(case.base.scores) == set(case.policy.scores) == set(COLUMNS)


def test_a_judge_without_marks_or_answers_leaves_them_unmeasured() -> None:
    scores = results(4, judge="lexical").scores
    assert scores["policy"]["qa_accuracy"].n == 0 and scores["policy"]["qa_accuracy"].value is None
    assert scores["policy"]["linguistic"].n == 4  # clarity alone


def test_pictures_without_reference_are_left_out() -> None:
    shown = [picture(i) for i in range(4)]
    references = {p.sample.image_id: p.reference for p in shown[1:]}
    taken = take_pictures([p.sample for p in shown], references, {}, limit=2)
    assert [p.sample for p in taken] == [p.sample for p in shown[1:3]]
    with pytest.raises(NothingToEvaluate, match="reference"):
        take_pictures([shown[0].sample], references, {}, limit=2)


class Sleeper(JUDGES["oracle"]):  # type: ignore[misc]
    """The oracle, which never answers for one picture."""

    def __init__(self, late: str) -> None:
        super().__init__()
        self.late = late

    async def judge_group(self, sample, *rest, **more):  # type: ignore[no-untyped-def]
        if sample.image_id == self.late:
            await asyncio.Event().wait()
        return await super().judge_group(sample, *rest, **more)


def test_a_late_judge_leaves_one_picture_unknown_and_is_counted() -> None:
    pictures, groups = [picture(i) for i in range(3)], [captions(i) for i in range(3)]
    judge = Sleeper(pictures[1].sample.image_id)
    guard = Guard(judge, deadline=0.2)
    judged = judging.judge_all(guard, pictures, groups, seed=1)
    assert judged[1] == [Judgement(), Judgement()]
    assert guard.reasons == {"deadline": 1}
    assert judging.failure_rate(judge.fills, pictures, groups, judged) == pytest.approx(1 / 3)
    with pytest.raises(judging.JudgeFailed, match=r"33\.3%.*deadline: 1.*max_failure_rate"):
        judging.check_failures(guard, pictures, groups, judged, PARAMS.judge.max_failure_rate)


def test_a_judge_that_blocks_does_not_hang_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocker(JUDGES["oracle"]):  # type: ignore[misc]
        async def judge_group(self, *rest, **more):  # type: ignore[no-untyped-def]
            time.sleep(3)

    monkeypatch.setattr(judging, "GRACE", 0.1)
    start = time.monotonic()
    with pytest.raises(judging.JudgeFailed, match=r"evaluate\.judge_deadline is 0\.1 s"):
        judging.judge_all(Guard(Blocker(), 0.1), [picture(0)], [captions(0)], seed=1)
    assert time.monotonic() - start < 8  # the loop's thread gets its grace


def test_what_is_not_owed_is_no_failure() -> None:
    fills = JUDGES["oracle"]().fills
    all_but_answers = Judgement(assertions=(), covered=(), clarity=1, fluency=1, coherency=1, answers=None)
    shown = replace(picture(0), questions=())
    assert judging.failure_rate(fills, [shown], [[Caption("A cat.")]], [[all_but_answers]]) == 0.0
    cut_off = Caption("A cat", truncated=True)
    assert judging.failure_rate(fills, [shown], [[cut_off]], [[Judgement()]]) == 0.0
    assert judging.failure_rate(fills, [picture(0)], [[cut_off]], [[Judgement()]]) == 1.0  # answers alone are owed
