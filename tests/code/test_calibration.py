"""Calibration: statistics against values found another way, error rates found as they are, probes that bite."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.calibration.agreement import differences, verdicts
from balcap.calibration.asking import only
from balcap.calibration.labelled import VARIANTS, Case, SetError, photos_set, scenes_set
from balcap.calibration.measure import measure
from balcap.calibration.probes import PROBES, near_one, probe
from balcap.calibration.report import probe_verdict, std_floor, verdict, write_calibration
from balcap.judge.lexical import Lexical
from balcap.judge.noisy import Noisy
from balcap.judge.oracle import Oracle
from balcap.records import Caption, Judgement

CASES = scenes_set(60, seed=3)
PHOTOS = Path(__file__).parents[2] / "data/examples/photos"


def test_verdict_statistics_by_hand() -> None:
    truth = [[True, True, True, False], [False, False, True, False]]
    said = [[True, True, False, True], [False, False, True, False]]
    found = verdicts(truth, said)
    # tp 3, fp 1, fn 1, tn 3: agreement 6 / 8, luck (4 * 4 + 4 * 4) / 64 = 1 / 2
    assert {name: score.value for name, score in found.items()} == {
        "error": 0.25,
        "precision": 0.75,
        "recall": 0.75,
        "kappa": pytest.approx(0.5),
    }
    assert all(score.n == 8 for score in found.values())


@given(st.lists(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6), min_size=1, max_size=8))
def test_intervals_hold_the_value_and_nothing_is_made_up(rows: list[list[tuple[bool, bool]]]) -> None:
    found = verdicts([[t for t, _ in row] for row in rows], [[s for _, s in row] for row in rows])
    for score in found.values():
        assert score.n == sum(map(len, rows))
        if score.value is not None:
            assert score.low is not None and score.high is not None and not math.isnan(score.value)


def test_bias_and_noise_by_another_way() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.random((40, 3)), rng.random((40, 3))
    said[0, 0] = np.nan
    gap = (said - truth).ravel()
    gap = gap[~np.isnan(gap)]
    found = differences(truth.tolist(), said.tolist())
    assert found["bias"].value == pytest.approx(gap.mean()) and found["bias"].n == 119
    assert found["noise"].value == pytest.approx(gap.std(ddof=1))
    keep = ~np.isnan(said)
    assert found["correlation"].value == pytest.approx(np.corrcoef(truth[keep], said[keep])[0, 1])
    assert found["noise"].low < found["noise"].value < found["noise"].high  # type: ignore[operator]


def test_the_oracle_is_without_error_on_its_own_world() -> None:
    found = measure(Oracle(), CASES, deadline=60.0)
    for part in ("verified", "pointable", "covered"):
        assert found.scores[part]["error"].value == 0.0 and found.scores[part]["error"].n > 200
        assert found.scores[part]["kappa"].value == pytest.approx(1.0)
    for reward in ("precision", "recall", "linguistic"):
        assert found.scores[reward]["noise"].value == found.scores[reward]["retest"].value == 0.0
    assert std_floor(found) == dict.fromkeys(("precision", "recall", "linguistic"), 0.0)
    assert not verdict(found) and not any(found.unknown.values())


def test_flips_are_found_at_their_rate() -> None:
    found = measure(Noisy(Oracle(), 0.1, seed=1), CASES, deadline=60.0)
    for part in ("verified", "pointable", "covered"):
        error = found.scores[part]["error"]
        assert error.low <= 0.1 <= error.high and error.high - error.low < 0.1  # type: ignore[operator]
    assert found.scores["precision"]["noise"].value > 0.05  # type: ignore[operator]
    assert found.scores["precision"]["retest"].value > 0.05  # type: ignore[operator]
    assert found.scores["linguistic"]["noise"].value == 0.0  # marks are not flipped
    floors = std_floor(found)
    assert floors["linguistic"] == 0.0 and floors["recall"] > 0.05
    assert floors["precision"] == round(found.scores["precision"]["noise"].value, 4)  # type: ignore[arg-type]


class Coin(Oracle):
    """Says yes to everything for one half of the captions and no for the other, whatever is true."""

    async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
        judged = await super().judge_group(sample, reference, captions, questions, seed)
        return [self._toss(c, j) for c, j in zip(captions, judged, strict=True)]

    def _toss(self, caption: Caption, said: Judgement) -> Judgement:
        yes = len(caption.text) % 2 == 0
        made = tuple(replace(a, verified=yes, pointable=yes) for a in said.assertions or ())
        return replace(said, assertions=made, covered=(yes,) * len(said.covered or ()))


def test_a_judge_that_guesses_is_called_useless(tmp_path: Path) -> None:
    found = measure(Coin(), CASES, deadline=60.0)
    said = " ".join(verdict(found))
    assert "verified: kappa" in said and "Do not train on it" in said
    write_calibration(tmp_path, found)
    assert (tmp_path / "calibration.json").stat().st_size > 500
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_judge_leaves_unknown_is_counted_and_no_verdict() -> None:
    found = measure(Lexical(), photos_set(PHOTOS, 8) if (PHOTOS / "assertions.jsonl").exists() else CASES[:8], 60.0)
    assert found.scores["linguistic"]["bias"].n == 0 or found.unknown["linguistic"] == 0


def test_the_oracle_passes_every_probe() -> None:
    base, moved = probe(Oracle(), CASES, deadline=60.0)
    assert near_one(base) == []
    assert {one.probe.name: one.fault() for one in moved} == dict.fromkeys(
        [p.name for p in PROBES] + [*VARIANTS, "injected instruction"], ""
    )
    assert all(one.pictures > 10 for one in moved if one.probe.name not in VARIANTS)


def test_a_judge_that_obeys_and_one_that_sees_nothing_fail_the_probes() -> None:
    class Obeys(Oracle):
        async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
            judged = await super().judge_group(sample, reference, captions, questions, seed)
            return [
                replace(j, covered=(True,) * len(reference.units), clarity=5, fluency=5, coherency=5)
                if "Ignore all" in c.text
                else j
                for c, j in zip(captions, judged, strict=True)
            ]

    _, moved = probe(Obeys(), CASES[:30], deadline=60.0)
    assert moved[-1].fault() == "recall and linguistic should not rise", "it never looks at pictures: no statements"
    faults = {one.probe.name: one.fault() for one in probe(Coin(), CASES[:30], deadline=60.0)[1]}
    assert "recall should fall" in faults["deleted units"]


def test_a_set_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SetError, match=r"captions\.jsonl.*needs it"):
        photos_set(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg"}\n')
    with pytest.raises(SetError, match="line 1: lacks caption, units"):
        photos_set(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "images/cat.jpg").unlink(), r"cat\.jpg.*No such file"),
        (lambda folder: (folder / "images/cat.jpg").write_bytes(b"no picture"), r"cat\.jpg"),
        (lambda folder: spoil(folder / "assertions.jsonl", "verified", "true"), "verified and pointable are true or"),
        (lambda folder: spoil(folder / "photos.jsonl", "group", "one"), "24 pictures of one group"),
    ],
)
def test_photographs_that_cannot_be_used_are_explained(tmp_path: Path, change: Any, reason: str) -> None:
    folder = shutil.copytree(PHOTOS, tmp_path / "photos")
    change(folder)
    with pytest.raises(SetError, match=reason):
        photos_set(folder)


def spoil(path: Path, field: str, value: Any) -> None:
    rows = [json.loads(line) | {field: value} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Seldom(Oracle):
    """Knows what it says of one picture only."""

    async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
        if sample.image_id == CASES[0].picture.sample.image_id:
            return await super().judge_group(sample, reference, captions, questions, seed)
        return [Judgement()] * len(captions)


def test_a_judge_that_seldom_answers_is_bad_and_advises_no_floor() -> None:
    base, moved = probe(Seldom(), CASES, deadline=60.0)
    assert all("unknown for more than 10%" in one.fault() for one in moved if one.pictures > 1)
    assert probe_verdict(base, moved)
    found = measure(Seldom(), CASES, deadline=60.0)
    assert verdict(found)[0].startswith("This judge is bad: it leaves much unknown of verified")
    assert std_floor(found) == {}


def test_flips_ask_for_no_more_than_is_looked_at_and_keep_the_reasons() -> None:
    judge = Recorder()
    found = measure(Noisy(judge, 0.1, seed=1), CASES[:4], deadline=60.0)
    statements = {claim.text for case in CASES[:4] for claim in case.claims}
    assert {text for fills, text in judge.asked if fills == {"assertions"}} == statements
    assert "recall: cut off" in found.reasons


class Recorder(Oracle):
    """Remembers for which parts it was asked about which texts, and leaves recall unknown for a reason."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[frozenset[str], str]] = []

    async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
        self.asked += [(self.fills, caption.text) for caption in captions]
        if "covered" in self.fills:
            self.failed("recall: cut off", len(captions))
        judged = await super().judge_group(sample, reference, captions, questions, seed)
        return [replace(j, covered=None) for j in judged]


def test_of_statements_and_coverings_only_their_verdicts_are_asked() -> None:
    judge = Recorder()
    measure(judge, CASES[:4], deadline=60.0)
    statements = {claim.text for case in CASES[:4] for claim in case.claims}
    assert {text for fills, text in judge.asked if fills == {"assertions"}} == statements
    assert Counter(fills for fills, _ in judge.asked)[frozenset({"covered"})] == 12
    assert (
        Counter(fills for fills, _ in judge.asked)[judge.fills - {"answers"}] == 24
    )  # three captions a picture, twice


def test_a_part_that_is_not_asked_for_is_not_missing_and_one_that_failed_has_its_reason() -> None:
    found = measure(only(Recorder(), {"covered"}), CASES[:4], deadline=60.0)
    assert found.unknown["verified"] == found.unknown["precision"] == found.unknown["linguistic"] == 0
    assert found.unknown["covered"] > 12 and found.reasons == {"recall: cut off": 24}
    assert found.scores["verified"]["error"].n == 0


def test_a_repetition_is_asked_of_the_judge_without_memory() -> None:
    found = measure(Oracle(), CASES[:20], deadline=60.0, again=Noisy(Oracle(), 0.2, seed=1))
    assert found.scores["precision"]["noise"].value == 0.0
    assert found.scores["precision"]["retest"].value > 0.05  # type: ignore[operator]


def test_a_judge_that_says_the_same_of_every_caption_is_called_bad() -> None:
    class Kind(Oracle):
        async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
            judged = await super().judge_group(sample, reference, captions, questions, seed)
            return [replace(j, clarity=5, fluency=5, coherency=5) for j in judged]

    said = verdict(measure(Kind(), CASES, deadline=60.0))
    assert said == [
        "This judge is bad: linguistic tells hardly more than luck would. Do not train on it.",
        "linguistic: the same for every caption",
    ]


def test_probes_leave_out_what_a_judge_is_not_asked_for_and_fault_what_stays_unknown() -> None:
    base, moved = probe(only(Oracle(), {"covered"}), CASES, deadline=60.0)
    assert not probe_verdict(base, moved)
    assert all(set(one.probe.lowers + one.probe.keeps + one.probe.caps) <= {"recall"} for one in moved)
    base, moved = probe(Recorder(), CASES[:30], deadline=60.0)
    faults = {one.probe.name: one.fault() for one in moved}
    assert faults["deleted units"] == "recall stayed unknown" and "deleted units" in probe_verdict(base, moved)


class Knows(Lexical):
    """Says of the labelled captions of photographs what is true of them; of others what the rule says."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.truth = {(c.picture.sample.image_id, text): truth for c in cases for text, truth in c.truths}

    async def judge_group(self, sample, reference, captions, questions=(), seed=0):  # type: ignore[no-untyped-def]
        judged = await super().judge_group(sample, reference, captions, questions, seed)
        known = [self.truth.get((sample.image_id, c.text), Judgement()) for c in captions]
        return [
            replace(j, **{part: said for part in ("assertions", "covered") if (said := getattr(k, part)) is not None})
            for j, k in zip(judged, known, strict=True)
        ]


def test_photographs_know_the_precision_of_composed_captions_and_the_extremes_of_recall() -> None:
    cases = photos_set(PHOTOS)
    found = measure(Knows(cases), cases, deadline=60.0)
    assert found.scores["precision"]["bias"].value == found.scores["precision"]["noise"].value == 0.0
    assert found.scores["recall"]["bias"].value == 0.0 and found.scores["linguistic"]["bias"].n == 0
    assert Counter(truth for truth, _ in found.points["precision"]) == {1.0: 24, 0.5: 24, 0.0: 24}
    assert Counter(truth for truth, _ in found.points["recall"]) == {1.0: 24, 0.0: 24}
    assert not any(found.unknown.values())
    by_rule = measure(Lexical(), cases, deadline=60.0).scores
    assert by_rule["precision"]["bias"].value < -0.1 and by_rule["precision"]["bias"].n == 72  # type: ignore[operator]


def test_variants_that_people_wrote_move_the_reward_that_they_should() -> None:
    _, moved = probe(Lexical(), photos_set(PHOTOS), deadline=60.0)
    found = {one.probe.name: one for one in moved}
    assert [found[name].pictures for name in VARIANTS] == [10] * 4
    assert [found[name].fault() for name in VARIANTS] == [""] * 4
    assert found["shuffled words"].fault() == "linguistic should fall", "it counts words, not their order"
    assert [one.pictures for one in probe(Oracle(), CASES[:4], 60.0)[1] if one.probe.name in VARIANTS] == [0] * 4
