"""Text back to facts: the tolerant parser, the strict grammar, atoms, units, coverage, marks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.scenes import (
    COMMENTARY,
    VOCABULARY,
    Atom,
    Scene,
    covered,
    draw_scene,
    flaws,
    marks,
    noisy_caption,
    parse,
    pointable,
    say,
    split_units,
    teacher_caption,
    verified,
)
from balcap.scenes.atoms import relation
from balcap.scenes.grammar import Said, well_formed
from balcap.scenes.world import BACKGROUNDS, COLOURS, NUMBERS, SHAPES, SIZES, TEXTURES, Thing

SCENES = [draw_scene(4, i, 1, 3) for i in range(300)]
SCENE = Scene(
    (
        Thing("circle", "red", "small", 0, 7, 0, 0, (0, 0, 0)),
        Thing("square", "blue", "large", 4, 11, 0, 0, (0, 0, 0)),
    ),
    background="tan",
    texture="dotted",
    noise_seed=0,
)
SAIDS = st.builds(Said, st.sampled_from(SHAPES), st.sampled_from([None, *COLOURS]), st.sampled_from([None, *SIZES]))
ATOMS = st.one_of(
    st.builds(Atom, st.just("shape"), st.integers(0, 8), st.sampled_from(SHAPES)),
    st.builds(Atom, st.just("colour"), st.integers(0, 8), st.sampled_from(COLOURS)),
    st.builds(Atom, st.just("size"), st.integers(0, 8), st.sampled_from(SIZES)),
    st.builds(Atom, st.just("background"), st.just(""), st.sampled_from(BACKGROUNDS)),
    st.builds(Atom, st.just("texture"), st.just(""), st.sampled_from(TEXTURES)),
    st.builds(Atom, st.just("count"), st.just(""), st.sampled_from(NUMBERS)),
    st.builds(Atom, st.just("comment"), st.just(""), st.sampled_from(COMMENTARY)),
    st.builds(Atom, st.just("exists"), st.just(""), SAIDS),
    st.builds(relation, SAIDS, st.sampled_from(["left of", "right of", "above", "below"]), SAIDS),
)
RED_CIRCLE = [Atom("shape", 0, "circle"), Atom("colour", 0, "red")]
BLUE_SQUARE = [Atom("shape", 4, "square"), Atom("colour", 4, "blue")]


def clauses(text: str) -> list[list[Atom]]:
    return [list(clause.atoms) for clause in parse(text).clauses()]


@given(ATOMS)
def test_what_an_atom_says_is_read_back_as_that_atom_alone(atom: Atom) -> None:
    assert parse(say(atom)).atoms() == [atom]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(VOCABULARY), max_size=60).map(" ".join)))
def test_any_text_can_be_read_judged_and_split(text: str) -> None:
    atoms = parse(text).atoms()
    assert all(isinstance(verified(atom, SCENE), bool) for atom in atoms)
    assert all(1 <= mark <= 5 for mark in marks(text))
    assert all(covered(split_units(text), text))
    assert all(clause.atoms for clause in parse(text).clauses())


def test_the_strict_grammar_accepts_everything_the_teacher_writes() -> None:
    for scene in SCENES:
        for part in teacher_caption(scene, 2).lower().rstrip(".").split(". "):
            assert well_formed(part), part


@pytest.mark.parametrize(
    "text",
    [
        "a orange circle sits at the top-left",
        "an red circle sits at the top-left",
        "red circle sits at the top-left",
        "a red circle at the top-left",
        "a red small circle sits at the top-left",
        "there is two shapes",
        "there are one shapes",
        "the background is grey striped",
        "the red circle left of the blue square",
        "",
    ],
)
def test_the_strict_grammar_refuses_faults(text: str) -> None:
    assert not well_formed(text)


def test_faulty_grammar_is_read_as_it_is_meant() -> None:
    assert parse("Red red circle at top-left.").atoms() == RED_CIRCLE
    assert parse("At the top-left there are an circle red").atoms() == RED_CIRCLE
    assert parse("Background striped black.").atoms() == [
        Atom("background", "", "black"),
        Atom("texture", "", "striped"),
    ]
    assert parse("Scene feels calm.").atoms() == [Atom("comment", "", "The scene feels calm.")]
    assert [atom.kind for atom in parse("Sits at the top-left. A dog barks.").atoms()] == ["junk", "junk"]


def test_relations_are_put_in_one_form() -> None:
    one = parse("The red circle is left of the blue square.").atoms()
    assert one == parse("The blue square is right of the red circle.").atoms()
    assert verified(one[0], SCENE) and not verified(parse("The circle is below the square.").atoms()[0], SCENE)
    assert parse("The red circle is left of.").atoms()[0].kind == "junk"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red circle sits at the top-left a blue square lies at the centre", [RED_CIRCLE, BLUE_SQUARE]),
        ("a circle red sits at the top-left at the centre there is a blue square", [RED_CIRCLE, BLUE_SQUARE]),
        ("red circle at the top-left square at the centre blue", [RED_CIRCLE, BLUE_SQUARE]),
        ("red circle at the top-left and blue square at the centre", [RED_CIRCLE, BLUE_SQUARE]),
        (
            "the background is tan there are two shapes",
            [[Atom("background", "", "tan")], [Atom("count", "", "two")]],
        ),
        (
            "the background is tan a red circle sits at the top-left",
            [[Atom("background", "", "tan")], RED_CIRCLE],
        ),
        (
            "the circle is left of the square the star is above the cross",
            [
                [relation(Said("circle"), "left of", Said("square"))],
                [relation(Said("star"), "above", Said("cross"))],
            ],
        ),
        ("a red circle sits at the top-left blue", [RED_CIRCLE, [Atom("junk", "", "blue")]]),
    ],
)
def test_a_clause_is_cut_at_every_repeated_key_word(text: str, expected: list[list[Atom]]) -> None:
    assert clauses(text) == expected


def test_a_run_on_hides_neither_repeats_nor_contradictions() -> None:
    """``miniature`` finding 5: one policy wrote this without a stop and was read as one clause with two atoms."""
    once = "The background is dotted tan."
    run_on = " ".join(["the background is dotted tan"] * 5)
    assert marks(once) == (5, 5, 5)
    assert len(parse(run_on).atoms()) == 10
    assert flaws(run_on) == (4 * 2 + 1, 4 + 1, 0)
    assert marks(run_on) == (1, 1, 5)
    assert marks(run_on + ".") == (1, 1, 5)
    either = "the background is tan the background is grey the background is black."
    assert flaws(either).coherency == 2
    assert [verified(atom, SCENE) for atom in parse(either).atoms()] == [True, False, False]
    listed = "red circle orange circle yellow circle at the top-left."
    assert [len(found) for found in clauses(listed)] == [1, 1, 2]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SCENES).map(lambda scene: teacher_caption(scene, 1)), min_size=1, max_size=3))
def test_leaving_out_the_stops_changes_no_assertion_and_costs_one_flaw_each(captions: list[str]) -> None:
    text = " ".join(captions)
    stopless = text.replace(".", "")
    assert parse(stopless).atoms() == parse(text).atoms()
    assert flaws(stopless).fluency == (text.count(".") if text.count(".") > 1 else 1)
    assert flaws(stopless).clarity >= flaws(text).clarity
    assert flaws(stopless).coherency == flaws(text).coherency


def test_clarity_counts_what_says_nothing_new() -> None:
    said = "A red circle sits at the top-left."
    assert flaws(f"{said} {said}").clarity == 2
    assert flaws(f"{said} At the top-left there is a red circle.").clarity == 2
    assert flaws(f"{said} The picture shows a circle.").clarity == 2
    assert flaws(f"{said} The picture shows a blue circle.").clarity == 0
    assert flaws("The red circle is above the star. The circle is above the star.").clarity == 2
    assert flaws("The scene feels calm. The scene feels calm.").clarity == 2
    assert flaws("The scene feels calm. The layout adds depth.").clarity == 0
    assert flaws("There are two shapes and the background is tan and the scene feels calm.").clarity == 1


def test_fluency_counts_bad_sentences_and_a_missing_stop() -> None:
    assert flaws("A red circle sits at the top-left").fluency == 1
    assert flaws("Red circle sits at the top-left. Background is tan.").fluency == 2
    assert flaws("a red circle sits at the top-left and the background is tan.").fluency == 0
    assert flaws("The background is tan. . .").fluency == 2
    assert flaws("Red circle sits at the top-left and background is tan.").fluency == 2
    assert flaws("And a red circle sits at the top-left and and the background is tan and.").fluency == 3


def test_padding_a_sentence_costs_more_than_a_missing_article() -> None:
    padded = "Rests pleasant bottom-centre contrast effect nine balance square there plain."
    assert flaws(padded).fluency > 4 and marks(padded)[1] == 1
    assert flaws("A red circle sits at the top-left layout depth.").fluency == 2
    assert flaws("A red red red circle sits at the top-left.").fluency == 2
    assert flaws("The layout adds the depth.").fluency == 1
    assert flaws("Lorem ipsum dolor.").fluency == 3


def test_coherency_counts_contradictions_and_disorder() -> None:
    assert flaws("A red circle sits at the top-left. A blue circle sits at the top-left.").coherency == 1
    assert flaws("There are two shapes. There are three shapes.").coherency == 1
    assert flaws("The circle is above the star. The circle is below the star.").coherency == 1
    assert flaws("A circle sits at the centre. A star sits at the top-left.").coherency == 1
    assert flaws("The background is tan. There are two shapes.").coherency == 1
    order = "The background is tan. There are two shapes. "
    assert flaws(order * 4).coherency == 2


def test_an_empty_text_has_the_worst_marks() -> None:
    assert marks("") == marks("  \n") == marks(". .") == (1, 1, 1)
    assert parse("").atoms() == []


def test_a_lie_and_a_broken_truth_fail_in_different_places() -> None:
    lie = "A large green star sits at the bottom-right. The background is plain white."
    broken = "Small red circle the top-left. Are dotted tan the background"
    lied, broke = parse(lie).atoms(), parse(broken).atoms()
    assert not any(verified(atom, SCENE) for atom in lied) and marks(lie) == (5, 5, 5)
    assert all(verified(atom, SCENE) for atom in broke) and marks(broken)[1] == 2


def test_comments_are_true_but_not_pointable_and_junk_is_neither() -> None:
    comment, junk = parse("The layout adds depth. Lorem ipsum.").atoms()
    assert verified(comment, SCENE) and not pointable(comment)
    assert not verified(junk, SCENE) and not pointable(junk)


def test_a_caption_covers_its_own_units_and_relations_need_saying() -> None:
    shares = []
    for scene in SCENES:
        caption = teacher_caption(scene, 0)
        units = split_units(caption)
        assert units and all(covered(units, caption))
        shares.append(sum(covered(units, noisy_caption(scene, 0))) / len(units))
    assert 0.3 < sum(shares) / len(shares) < 0.55  # the noisy captioner leaves out and errs
    units = ("The red circle is left of the square.",)
    assert covered(units, "The square is right of the small red circle.") == (True,)
    assert covered(units, "The circle is left of the square.") == (False,)
    assert covered(units, "A red circle sits at the top-left. A square sits at the centre.") == (False,)
    assert covered(("The picture shows a red circle.",), "A small red circle sits at the centre.") == (True,)
    assert covered(("A red circle sits at the top-left.",), "A circle sits at the top-left.") == (False,)


def test_units_are_canonical_and_each_stands_once() -> None:
    caption = (
        "There are two shapes. A small red circle sits at the top-left. The blue square is right of the red circle. "
    )
    assert split_units(caption * 2 + "The scene feels calm.") == (
        "There are two shapes.",
        "There is a circle at the top-left.",
        "The shape at the top-left is red.",
        "The shape at the top-left is small.",
        "The red circle is left of the blue square.",
    )
