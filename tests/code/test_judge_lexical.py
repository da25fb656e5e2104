"""The lexical judge: its rules by example and property, its calibration on photographs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.judge import lexical
from balcap.judge.lexical import Lexical
from balcap.judge.words import content_words, nouns, statements, stem
from balcap.records import Caption, Judge, Judgement, Reference, Sample

ROOT = Path(__file__).parents[2]
PHOTOS = ROOT.parent / "shared/data/photos"
EXAMPLES = ROOT / "data/examples/photos"

UNITS = (
    "A slender white tower stands on a rocky hill.",
    "The tower has a red door on the left.",
    "Two small boats lie in the harbour.",
    "The sky is deep blue and cloudless.",
)
GOOD = "A slender white tower with a red door on the left stands on a rocky hill. Two small boats lie in the harbour."


def judge(text: str, units: tuple[str, ...] = UNITS) -> Judgement:
    return Lexical().judge(text, units)


@pytest.mark.parametrize(
    ("words", "same"),
    [("towers tower tower's", True), ("carved carve", True), ("churches church", True), ("skies sky", True),
     ("stopped stop", True), ("glass gas", False), ("red reed", False)],
)  # fmt: skip
def test_stems_join_forms_and_keep_words_apart(words: str, same: bool) -> None:
    assert (len({stem(word) for word in words.split()}) == 1) is same


def test_content_words_leave_out_function_words_and_keep_order() -> None:
    assert content_words("The tower's two doors, and the DOORS") == ("tower", "two", "door", "door")


def test_statements_cut_only_where_both_sides_say_enough() -> None:
    text = "A tall, slender tower stands on a hill, and two boats lie in the harbour. The sky is blue and cloudless!"
    assert statements(text) == (
        "A tall, slender tower stands on a hill",
        "two boats lie in the harbour.",
        "The sky is blue and cloudless!",
    )


def test_nouns_are_heads_of_subjects_objects_and_places() -> None:
    assert nouns(UNITS) == {stem(word) for word in ("tower", "hill", "door", "boats", "harbour", "sky")}


def test_a_true_caption_is_verified_pointable_and_covers() -> None:
    got = judge(GOOD)
    assert got.assertions and all(a.verified and a.pointable for a in got.assertions)
    assert got.covered == (True, True, True, False)
    assert got.clarity == 5
    assert got.fluency is got.coherency is got.answers is None


@pytest.mark.parametrize(
    "lie",
    ["A slender black tower stands on a rocky hill.", "The tower has a red door on the right.",
     "Three small boats lie in the harbour.", "Two large boats lie in the harbour."],
)  # fmt: skip
def test_a_wrong_colour_side_number_or_size_is_refuted(lie: str) -> None:
    assert not lexical.verified(lie, UNITS)


def test_what_the_units_do_not_say_is_unverified() -> None:
    assert not lexical.verified("A helicopter hovers over the crowded market.", UNITS)


def test_commentary_is_not_pointable() -> None:
    assert not lexical.pointable("The picture invites a moment of calm.", UNITS)
    assert lexical.pointable("One can imagine the history of the tower.", UNITS)  # a limit, stated in the docstring


@pytest.mark.parametrize(
    ("text", "mark"),
    [(GOOD, 5), ("Two boats lie here. Two boats lie here.", 3), ("boat boat boat boat boat", 3),
     ("The tower is white, the door is red, the boats are small, the sky is blue.", 4),
     (" ".join(["Two boats lie in the harbour."] * 9), 1)],
)  # fmt: skip
def test_clarity_counts_repetition_and_run_ons(text: str, mark: int) -> None:
    assert judge(text).clarity == mark


def test_an_endless_sentence_without_commas_runs_on() -> None:
    assert lexical.clarity(" ".join(f"word{i}" for i in range(41))) == 4


def test_an_empty_caption_is_known_to_say_nothing() -> None:
    assert judge("") == Judgement(assertions=(), covered=(False,) * 4, clarity=5)
    assert judge(" . , !").assertions == ()


def test_without_units_truth_is_unknown_and_counted() -> None:
    lexi = Lexical()
    assert lexi.judge(GOOD, ()) == Judgement(clarity=5)
    assert lexi.failures == {"no units": 1}


def test_the_seam() -> None:
    lexi = Lexical()
    assert isinstance(lexi, Judge)
    sample = Sample("0", b"", "eval", "folder", "CC0-1.0")
    reference = Reference("0", GOOD, UNITS, "file", "")
    captions = [Caption(GOOD), Caption("A boat."), Caption(GOOD)]
    got = asyncio.run(lexi.judge_group(sample, reference, captions))
    assert got == [lexi.judge(caption.text, UNITS) for caption in captions]
    filled = {name for name in Judgement.__slots__ if getattr(got[0], name) is not None}
    assert filled == lexi.fills


PIECES = (
    "tower",
    "red",
    "left",
    "right",
    "boats",
    "two",
    "three",
    "hill",
    "the",
    "a",
    "is",
    "in",
    "sky",
    ",",
    ".",
    "and",
)
TEXT = st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(TEXT, st.permutations(UNITS))
def test_the_order_of_units_is_irrelevant(text: str, order: list[str]) -> None:
    one, other = judge(text), judge(text, tuple(order))
    assert one.assertions == other.assertions
    assert one.covered is not None and other.covered is not None
    assert dict(zip(UNITS, one.covered, strict=True)) == dict(zip(order, other.covered, strict=True))


@settings(max_examples=100, deadline=None)
@given(TEXT, st.sampled_from(UNITS))
def test_a_supported_statement_covers_its_unit_and_never_lowers_recall(text: str, unit: str) -> None:
    before, after = judge(text).covered, judge(f"{text}. {unit}").covered
    assert before is not None and after is not None
    assert all(a or not b for a, b in zip(after, before, strict=True))
    assert after[UNITS.index(unit)]


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT)
def test_more_text_never_raises_clarity(text: str, more: str) -> None:
    assert lexical.clarity(f"{text}.\n{more}") <= lexical.clarity(text)


def scores(text: str, units: tuple[str, ...]) -> tuple[float, float, float]:
    """Precision, recall and clarity in [0, 1], written out once more."""
    got = judge(text, units)
    assert got.assertions is not None and got.covered is not None and got.clarity is not None
    good = [a.verified and a.pointable for a in got.assertions]
    return mean(good or [0]), mean(got.covered), (got.clarity - 1) / 4


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def photos(folder: Path, name: str) -> dict[str, dict]:
    if not (folder / name).is_file():
        pytest.skip(f"needs {folder.name}/{name}, which is not in this checkout")
    return {row["image"]: row for row in rows(folder / name)}


@pytest.mark.parametrize("folder", [PHOTOS, EXAMPLES], ids=["shared", "examples"])
def test_a_photographs_own_caption_scores_high_and_anothers_low(folder: Path) -> None:
    captions = photos(folder, "captions.jsonl")
    names = sorted(captions)
    own = [scores(captions[i]["caption"], tuple(captions[i]["units"])) for i in names]
    others = [
        scores(captions[i]["caption"], tuple(captions[k]["units"]))
        for i, k in zip(names, names[1:] + names[:1], strict=True)
    ]
    precision, recall, clarity = (mean(column) for column in zip(*own, strict=True))
    assert precision > 0.93 and recall > 0.96 and clarity > 0.87
    assert mean(p for p, _, _ in others) < 0.15 and mean(r for _, r, _ in others) < 0.1


@pytest.mark.parametrize(
    ("variant", "falls", "share"),
    [("short", 1, 1.0), ("hallucinated", 0, 0.95), ("padded", 0, 1.0), ("disfluent", 2, 0.85)],
)
def test_a_spoilt_caption_loses_the_right_reward(variant: str, falls: int, share: float) -> None:
    captions, spoilt = photos(PHOTOS, "captions.jsonl"), photos(PHOTOS, "variants.jsonl")
    change = []
    for name, row in spoilt.items():
        units = tuple(captions[name]["units"])
        before, after = scores(captions[name]["caption"], units), scores(row[variant], units)
        change.append([a - b for a, b in zip(after, before, strict=True)])
    assert mean(row[falls] < 0 for row in change) >= share
    for kept in {"short": [2], "hallucinated": [2], "padded": [1, 2], "disfluent": [0, 1]}[variant]:
        assert mean(row[kept] for row in change) > -0.02


def test_calibration_on_labelled_assertions() -> None:
    """Measured .52 and .79 (always yes: .63 and .75): most labelled truths stand in no reference."""
    captions = photos(PHOTOS, "captions.jsonl")
    labels = rows(PHOTOS / "assertions.jsonl")
    for name, rule, least in (("verified", lexical.verified, 0.5), ("pointable", lexical.pointable, 0.77)):
        got = [rule(row["text"], tuple(captions[row["image"]]["units"])) for row in labels]
        assert mean(g == row[name] for g, row in zip(got, labels, strict=True)) > least
    kinds = {(True, True): [], (False, True): []}  # type: ignore[var-annotated]
    for row in labels:
        if row["pointable"]:
            kinds[row["verified"], True].append(lexical.verified(row["text"], tuple(captions[row["image"]]["units"])))
    assert mean(kinds[True, True]) > mean(kinds[False, True]) + 0.1
