"""The evaluation with real (untrained, tiny) captioners: resumable, reproducible, paired."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_world import PARAMS, picture

from balcap.evaluation.captions import batch_seed, caption_all
from balcap.evaluation.run import Results, evaluate
from balcap.evaluation.write import write_results
from balcap.files import atomic_path
from balcap.hashing import dir_md5
from balcap.judge import JUDGES
from balcap.params.warmstart import TinyModel
from balcap.policy.build import build_tiny
from balcap.policy.folder import PolicyError
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import word_tokenizer
from balcap.scenes import VOCABULARY

PICTURES = [picture(index) for index in range(10)]
SPEC = TinyModel.model_validate(
    {
        "hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "image_size": 96, "patch_size": 32,
        "tokenizer": {"name": "scenes", "vocab_size": 256},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``base`` and ``policy``, two captioners from different seeds."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "policy")):
        model, processor = build_tiny(SPEC, word_tokenizer(list(VOCABULARY), "describe"), seed)
        save_policy(Policy(model, processor, "describe", True, 8), folder / name)
    return folder


def run(models: Path, work: Path, base: str = "base", policy: str = "policy", asked: bool = True) -> Results:
    return evaluate(
        PARAMS,
        models / base,
        models / policy,
        [p.sample for p in PICTURES],
        {p.sample.image_id: p.reference for p in PICTURES},
        {p.sample.image_id: p.questions for p in PICTURES if asked},
        work,
        JUDGES["oracle"](),
    )


def test_a_killed_evaluation_goes_on_and_ends_the_same(models: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    first = run(models, whole)
    samples = [p.sample for p in PICTURES]
    caption_all(PARAMS, "base", models / "base", samples[:4], resumed)  # killed after the first batch of four
    kept = (resumed / "base-00000.json").stat().st_mtime_ns
    assert run(models, resumed).scores == first.scores
    assert (resumed / "base-00000.json").stat().st_mtime_ns == kept
    assert dir_md5(resumed) == dir_md5(whole)
    for found, name in ((first, "one"), (run(models, resumed), "two")):
        write_results(found, PARAMS, lambda file, name=name: atomic_path(tmp_path / name / file))  # type: ignore[misc]
    assert dir_md5(tmp_path / "one") == dir_md5(tmp_path / "two")


def test_finished_captions_need_no_model(models: Path, tmp_path: Path) -> None:
    run(models, tmp_path)
    again = run(tmp_path / "nowhere", tmp_path)
    assert len(again.cases) == 10
    (tmp_path / "policy-00008.json").unlink()
    with pytest.raises(PolicyError, match="nowhere"):
        run(tmp_path / "nowhere", tmp_path)


def test_a_captioner_against_itself_does_not_differ(models: Path, tmp_path: Path) -> None:
    found = run(models, tmp_path, policy="base")
    assert all(case.base.caption == case.policy.caption for case in found.cases)
    assert {score.value for score in found.scores["difference"].values()} == {0.0}


def test_captions_that_were_cut_off_are_worth_a_known_zero(models: Path, tmp_path: Path) -> None:
    found = run(models, tmp_path)
    cut = [row for case in found.cases for row in (case.base, case.policy) if row.caption.truncated]
    assert cut, "an untrained captioner does not end within eight tokens"
    assert all(row.scores["precision"] == row.scores["recall"] == row.scores["linguistic"] == 0.0 for row in cut)


def test_without_questions_utility_is_unknown_and_nothing_else(models: Path, tmp_path: Path) -> None:
    found, asked = run(models, tmp_path, asked=False), run(models, tmp_path)
    assert [rows["qa_accuracy"].n for rows in found.scores.values()] == [0, 0, 0]
    assert found.scores["policy"]["qa_accuracy"].value is None
    assert found.scores["policy"]["recall"] == asked.scores["policy"]["recall"]
    write_results(found, PARAMS, lambda file: atomic_path(tmp_path / "out" / file))
    assert "qa_accuracy" not in json.loads((tmp_path / "out/summary.json").read_text())


def test_batches_differ_in_their_random_numbers() -> None:
    assert len({batch_seed(seed, start) for seed in range(3) for start in range(0, 256, 64)}) == 12


def test_work_holds_plain_captions(models: Path, tmp_path: Path) -> None:
    run(models, tmp_path)
    rows = json.loads((tmp_path / "policy-00004.json").read_text())
    assert len(rows) == 4 and set(rows[0]) == {"text", "truncated"}
