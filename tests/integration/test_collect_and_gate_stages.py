"""Collection and gates as programs: kill -9 and go on, bad files told in one message, a gate that stops and reports."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from collect_world import COUNT, Stages, caption, lines, make_checkout, picture_id, program, question, shards, stages_in
from oracle_world import served, serving
from runtime_world import runtime

from balcap.collect import CollectError, question_writer, reference_writer
from balcap.judge.prompts import load_prompt
from balcap.judge.reader import PROMPTS
from balcap.params.collect import CollectQuestions, CollectReferences
from balcap.records import Sample
from balcap.records_io import read_questions, read_references
from balcap.scenes import draw_scene
from balcap.serve.oracle import Oracle
from steps._stage import StageError


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


@pytest.fixture
def run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Stages:
    return stages_in(checkout, monkeypatch)


@pytest.mark.parametrize("stage", ["collect_references", "collect_questions"])
def test_kill_9_and_the_same_command_goes_on(checkout: Path, run: Stages, stage: str) -> None:
    (checkout / "data/references.parquet").write_bytes(b"an input of collect_questions")
    result = checkout / f"data/{stage.removeprefix('collect_')}.parquet"
    result.unlink(missing_ok=True)
    assert program(checkout, stage, kill_at=13).returncode == -signal.SIGKILL  # in the third of five shards
    finished = shards(checkout, stage)
    assert len(finished) == 2 * 2 and not result.exists()
    again = program(checkout, stage, kill_at=15)  # 14 pictures are left: it ends well
    assert again.returncode == 0, again.stderr
    assert f"{COUNT}/{COUNT} pictures" in again.stdout
    every = shards(checkout, stage)
    assert finished.items() <= every.items() and len(every) == 5 * 2
    content = result.read_bytes()
    # a third run writes no shard, and a run that was never killed gives the same bytes
    run(stage)
    assert shards(checkout, stage) == every
    shutil.rmtree(checkout / ".work")
    run(stage)
    assert result.read_bytes() == content


def test_bad_lines_stop_the_stage_by_name_and_earlier_output_stays(
    checkout: Path, run: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    run("collect_references")
    before = (checkout / "data/references.parquet").read_bytes()
    rows: list[Any] = [caption(n) for n in range(COUNT)]
    rows[7]["caption"] = ""
    lines(checkout / "data/mine/captions.jsonl", rows)
    with pytest.raises(StageError) as failed:
        run("collect_references")
    message = str(failed.value)
    for part in ("1 of 24 pictures", "images/7.jpg: data/mine/captions.jsonl: line 8: no caption", "max_failure_share"):
        assert part in message
    assert "warning: data/mine/captions.jsonl: 1 line(s) not used" in capsys.readouterr().out
    table = Path(message.split("All are in ")[1].split(". Mend")[0])
    assert pq.read_table(table).to_pydict()["origin"] == ["images/7.jpg"]
    assert run.last.kept["collect/failures.parquet"] == table.read_bytes()
    assert (checkout / "data/references.parquet").read_bytes() == before


def test_a_file_in_another_encoding_is_one_message(checkout: Path) -> None:
    (checkout / "data/mine/captions.jsonl").write_bytes(b'{"image": "images/1.jpg", "caption": "caf\xe9"}\n')
    failed = program(checkout, "collect_references", kill_at=0)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("error: data/mine/captions.jsonl, line 1: byte 0xe9 is not utf-8; set writer.enc")


def test_the_gates_pass_good_data_and_stop_bad_references(checkout: Path, run: Stages) -> None:
    for stage in ("validate_images", "collect_references", "collect_questions", "validate_references"):
        good = run(stage)
    summary = checkout / "reports/validation/references/summary.json"
    assert json.loads(summary.read_text()) == good.metrics
    assert good.metrics["questions_per_eval_image"] == 2.0
    references = read_references(checkout / "data/references.parquet")
    questions = read_questions(checkout / "data/questions.parquet")
    assert list(references) == list(questions) == [picture_id(n) for n in range(COUNT)]
    assert references[picture_id(7)].units == ("There are 7 red cars.", "They are parked.")
    assert [(q.question, q.answer) for q in questions[picture_id(7)]] == [("Question 0?", 1), ("Question 1?", 1)]
    summary.unlink()
    rows = [caption(n) for n in range(COUNT)]
    rows[7]["caption"] = "I'm sorry, but I cannot see the image."
    lines(checkout / "data/mine/captions.jsonl", rows)
    run("collect_references")
    with pytest.raises(StageError) as failed:
        run("validate_references")
    for part in ("ExpectNoRefusal, references.caption", "1 of 24 rows (4.2%)", "images/7.jpg (caption I'm sorry"):
        assert part in str(failed.value)
    assert not summary.exists()
    report = Path(str(failed.value).split("The full report is ")[1])
    assert "images/7.jpg" in report.read_text()
    assert run.last.kept["gx/report.html"] == report.read_bytes(), "kept before the stage failed"


def test_pictures_without_questions_pass_the_gate(checkout: Path, run: Stages) -> None:
    (checkout / "data/mine/questions.jsonl").write_text("")
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params["validate_references"]["min_questions"] = 0
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    for stage in ("validate_images", "collect_references", "collect_questions", "validate_references"):
        found = run(stage)
    assert found.metrics["questions"] == 0 and found.metrics["references"] == COUNT
    assert read_questions(checkout / "data/questions.parquet") == {}


def curated_at(checkout: Path, low: float | None, high: float | None) -> None:
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params["collect_questions"] |= {"min_accuracy_with_image": low, "max_accuracy_without_image": high, "per_image": 1}
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))


def test_questions_are_curated_where_their_accuracy_is_known(
    checkout: Path, run: Stages, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "data/references.parquet").write_bytes(b"an input of collect_questions")
    known: list[dict[str, float]] = [{"accuracy_with_image": 0.5}, {"accuracy_with_image": 1.0}, {}]
    rows = [question(n, k) | known[k] for n in range(COUNT) for k in range(3)]
    lines(checkout / "data/mine/questions.jsonl", rows)
    curated_at(checkout, 0.75, 0.25)
    found = run("collect_questions").metrics
    kept = read_questions(checkout / "data/questions.parquet")
    assert [q.question for qs in kept.values() for q in qs] == ["Question 1?"] * COUNT  # one each, behind the tests
    assert (found["dropped"], found["kept"], found["unknown_accuracy"]) == (COUNT, COUNT, COUNT)
    assert f"{COUNT} dropped, {COUNT} kept untested" in capsys.readouterr().out
    before = (checkout / "data/questions.parquet").read_bytes()
    lines(checkout / "data/mine/questions.jsonl", [row | {"accuracy_without_image": 1.0} for row in rows])
    with pytest.raises(StageError, match=f"dropped all {3 * COUNT} questions .* set them to null"):
        run("collect_questions")
    assert (checkout / "data/questions.parquet").read_bytes() == before


class Knows(Oracle):
    """Sees that the answer is no, and guesses so without the picture in question 1."""

    def say(self, body: dict[str, Any]) -> str:
        said = body["messages"][1]["content"]
        asked = json.loads(said if isinstance(said, str) else said[1]["text"])
        right = next(letter for letter, option in asked["options"].items() if option == "no")
        knows = not isinstance(said, str) or asked["question"] == "Question 1?"
        return json.dumps({"answer": right if knows else list(asked["options"])[-1]})


def test_a_model_measures_what_questions_are_worth(checkout: Path, run: Stages) -> None:
    (checkout / "data/references.parquet").write_bytes(b"an input of collect_questions")
    curated_at(checkout, 0.75, 0.25)
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    words = {how: load_prompt(name).sha256 for how, name in PROMPTS.items()}
    params["collect_questions"] |= {
        "per_image": 3,
        "reader": {"model": "m", "model_revision": "1", "prompts": words, "max_tokens": 20, "max_failure_rate": 0.0},
    }
    with served(Knows([])) as url:
        params["runtime"]["serving"] = {"m": serving(url).model_dump(mode="json")}
        (checkout / "params.yaml").write_text(yaml.safe_dump(params))
        found = run("collect_questions").metrics
    kept = [q for found in read_questions(checkout / "data/questions.parquet").values() for q in found]
    assert {q.question for q in kept} == {"Question 0?", "Question 2?"} and len(kept) == 2 * COUNT
    assert {(q.accuracy_with_image, q.accuracy_without_image) for q in kept} == {(1.0, 0.0)}
    assert (found["dropped"], found["unknown_accuracy"]) == (COUNT, 0)
    before = (checkout / "data/questions.parquet").read_bytes()
    assert run("collect_questions").metrics["judge/cache/misses"] == 0, "the endpoint is gone, its answers are kept"
    assert (checkout / "data/questions.parquet").read_bytes() == before
    params["collect_questions"]["reader"]["model_revision"] = "2"
    (checkout / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(StageError, match=r"m left 144 of 144 accuracies .* \(answer: no endpoint: \d+\)"):
        run("collect_questions")
    assert (checkout / "data/questions.parquet").read_bytes() == before


def scene_params(**more: Any) -> dict[str, Any]:
    return {"path": "balcap/scenes", "writer": {"name": "scenes", "seed": 3}, "shard_size": 5} | more


def test_the_embedded_world_writes_its_references_and_questions() -> None:
    scene = draw_scene(7, 0, 1, 3)
    sample = Sample(picture_id(1), b"", "train", "scenes", "CC0-1.0", {"scene": scene.to_json()})
    section = CollectReferences.model_validate(scene_params(max_failure_share=0.0))
    references = reference_writer(section, runtime(), {}).write
    null = {"reader": None, "min_accuracy_with_image": None, "max_accuracy_without_image": None}
    questions = question_writer(CollectQuestions.model_validate(scene_params(per_image=4, **null)), {}).write
    [[reference], same] = references([sample, sample])
    assert reference.units and reference.image_id == sample.image_id and same == [reference]
    [asked] = questions([sample])
    assert 0 < len(asked) <= 4
    photo = Sample(picture_id(2), b"", "train", "folder", "CC0-1.0")
    for write in (references, questions):
        with pytest.raises(CollectError, match="writer `file`"):
            list(write([photo]))
