"""``balcap judge calibrate | check | try`` for a model that only an address names."""

from __future__ import annotations

import json
from pathlib import Path

from oracle_world import Counted, served
from typer.testing import CliRunner

from balcap.calibration.labelled import scenes_set
from balcap.cli_judge import judge

CASES = scenes_set(6, seed=0)
SAMPLES = [case.picture.sample for case in CASES]
PICTURES = ("--pictures", str(len(CASES)))


def run(*line: object) -> tuple[int, str]:
    """Exit status, and what is printed without line breaks that a console puts in."""
    done = CliRunner().invoke(judge, [str(word) for word in line])
    return done.exit_code, " ".join(done.output.split())


def test_what_is_not_wanted_is_not_asked_and_the_rest_twice(tmp_path: Path) -> None:
    oracle = Counted(SAMPLES)
    with served(oracle) as url:
        code, said = run("calibrate", "--judge", url, "--only", "recall,linguistic", *PICTURES, "--out", tmp_path)
    assert code == 0 and "llm oracle: verdicts" in said and "bad" not in said
    texts = sum(len({text for text, _ in case.truths}) for case in CASES)
    assert oracle.calls == {"recall": 2 * texts, "linguistic": 2 * texts}  # again, past what is remembered
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["scores"]["covered"]["error"]["value"] == 0.0 and found["verdict"] == []
    assert found["scores"]["recall"]["retest"]["value"] == 0.0 and found["unknown"]["verified"] == 0


def test_all_parts_of_a_model_that_sees(tmp_path: Path) -> None:
    with served(Counted(SAMPLES)) as url:
        code, said = run("calibrate", "--judge", url, *PICTURES, "--out", tmp_path)
        assert code == 0 and "bad" not in said
        code, said = run("check", "--judge", url, *PICTURES)
        assert "reference itself 1.000" in said and ("as it should be" in said) and (code == 0) != ("is bad" in said)
    assert json.loads((tmp_path / "calibration.json").read_text())["scores"]["verified"]["error"]["value"] == 0.0


def test_a_model_that_never_answers_in_form_is_no_good_and_says_why(tmp_path: Path) -> None:
    with served(Counted(SAMPLES, fail=1.0)) as url:
        code, said = run("calibrate", "--judge", url, "--only", "recall", *PICTURES, "--out", tmp_path)
        assert code == 0 and "left unknown: " in said and "(recall: no " in said
        code, said = run("check", "--judge", url, "--only", "recall", *PICTURES)
    assert code == 1 and "recall stayed unknown" in said and "This judge is bad: " in said


def test_an_address_or_a_reward_that_is_none_is_explained() -> None:
    code, said = run("calibrate", "--judge", "http://127.0.0.1:9/v1")
    assert code == 1 and "no list of models there" in said and "balcap serve judge" in said
    code, said = run("check", "--judge", "oracle", "--only", "beauty")
    assert code == 1 and "--only beauty: some of precision,recall,linguistic" in said
    code, said = run("calibrate", "--judge", "nobody")
    assert code == 1 and "--judge nobody: one of oracle, lexical, train, evaluate, or http" in said


def test_one_caption_is_tried_by_address(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(SAMPLES[0].image)
    with served(Counted(SAMPLES)) as url:
        reference = CASES[0].picture.reference.caption
        code, said = run("try", picture, "--judge", url, "--caption", reference, "--reference", reference)
    assert code == 0 and "rewards: precision 1.00" in said
