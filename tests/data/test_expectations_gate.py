"""The gates stop bad data, show doubtful data, and never take an error for a pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from balcap.expectations import gate
from balcap.expectations.custom import ExpectNoRefusal
from balcap.expectations.facts import Frames, image_facts, reference_facts
from balcap.expectations.gate import CRITICAL, WARNING, GateReport, at_least, no_more_than, run_gate
from balcap.expectations.images import image_suites
from balcap.expectations.references import reference_suites
from balcap.expectations.report import counted, refusal, write_report
from balcap.expectations.summary import image_summary, reference_summary
from balcap.params import check_params, read_params
from balcap.params.validate import ValidateImages, ValidateReferences
from balcap.records_io import IMAGES, QUESTIONS, REFERENCES, write_table

ROOT = Path(__file__).parents[2]
IMAGE_PARAMS = ValidateImages(
    min_train_images=8, min_eval_images=2, max_aspect=2.0, max_reject_share=0.1, max_near_duplicate_share=0.2
)
REFERENCE_PARAMS = ValidateReferences(
    min_coverage=0.9,
    min_words=3,
    max_words=20,
    min_units=1,
    max_refusal_share=0.1,
    max_repetition=0.5,
    min_questions=1,
)
Rows = list[dict[str, Any]]


def sha(n: int) -> str:
    return f"{n:064x}"


def manifest_rows(count: int = 10) -> Rows:
    return [
        {
            "image_id": sha(n),
            "split": "eval" if n < 2 else "train",
            "origin": f"images/{n}.jpg",
            "source": "https://example.org",
            "author": "Somebody",
            "license": "CC0-1.0",
            "width": 640,
            "height": 480,
            "stored_width": 96,
            "stored_height": 72,
            "bytes": 5000,
            "phash": f"{n:016x}",
            "shard": "train-00000",
        }
        for n in range(count)
    ]


def image_rows(manifest: Rows) -> Rows:
    return [
        {
            "image_id": row["image_id"],
            "image": b"never opened",
            "width": row["stored_width"],
            "height": row["stored_height"],
            "split": row["split"],
            "source": "x",
            "license": "CC0-1.0",
            "meta": "{}",
        }
        for row in manifest
    ]


def images(folder: Path, manifest: Rows, rejects: Rows = (), stored: Rows | None = None) -> Frames:  # type: ignore[assignment]
    """Facts of written files."""
    pq.write_table(pa.Table.from_pylist(manifest), folder / "manifest.parquet")
    schema = pa.schema([("origin", pa.string()), ("reason", pa.string()), ("detail", pa.string())])
    write_table(folder / "rejects.parquet", rejects, schema)
    rows = image_rows(manifest) if stored is None else stored
    for split in ("train", "eval"):
        path = folder / f"images/{split}-00000.parquet"
        write_table(path, [row for row in rows if row["split"] == split], IMAGES)
    return image_facts(folder / "manifest.parquet", folder / "rejects.parquet", folder / "images")


def images_report(folder: Path, *args: Any, **kwargs: Any) -> GateReport:
    return run_gate(images(folder, *args, **kwargs), image_suites(IMAGE_PARAMS))


def names(outcomes: list[gate.Outcome]) -> list[str]:
    return [f"{o.table}.{o.column}" for o in outcomes]


def test_good_pictures_pass(tmp_path: Path) -> None:
    frames = images(tmp_path, manifest_rows())
    report = run_gate(frames, image_suites(IMAGE_PARAMS))
    assert len(report.outcomes) == sum(map(len, image_suites(IMAGE_PARAMS).values())) == 13
    assert report.failed == report.warnings == []
    assert all(o.rows > 0 and not o.error and o.description for o in report.outcomes)
    assert counted(image_summary(frames), report) == {
        "expectations": 13,
        "warnings": 0,
        "train_images": 8,
        "eval_images": 2,
        "unreadable": 0,
        "near_duplicate_share": 0.0,
        "aspect_max": 1.333333,
        "bytes_mean": 5000.0,
    }


def with_row(n: int, **changes: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        rows[n].update(changes)

    return change


@pytest.mark.parametrize(
    ("change", "failed", "example"),
    [
        (with_row(3, image_id=sha(4)), ["pictures.image_id", "collection.train_images"], "images/3.jpg"),
        (with_row(3, image_id="scene-3"), ["pictures.image_id"], "images/3.jpg (image_id scene-3)"),
        (with_row(3, split="test"), ["pictures.split", "collection.train_images"], "images/3.jpg (split test)"),
        (with_row(3, width=2000), ["pictures.aspect"], "images/3.jpg (aspect 4.16"),
        (with_row(3, bytes=0), ["pictures.bytes"], "images/3.jpg (bytes 0)"),
        (with_row(3, license=None), ["pictures.license"], "images/3.jpg"),
        (with_row(3, license=" "), ["pictures.license"], "images/3.jpg"),
        (with_row(0, split="train"), ["collection.eval_images"], "all (eval_images 1)"),
        (lambda rows: rows.pop(), ["collection.train_images"], "all (train_images 7)"),
        (
            lambda rows: rows.append(rows[3] | {"split": "eval"}),
            ["pictures.image_id", "collection.in_both_splits"],
            "2",
        ),
    ],
)
def test_bad_pictures_stop(tmp_path: Path, change: Callable[[Rows], None], failed: list[str], example: str) -> None:
    rows = manifest_rows()
    change(rows)
    report = images_report(tmp_path, rows)
    assert sorted(set(names(report.failed)) - {"pictures.in_shards"}) == sorted(failed)
    assert example in refusal("data/images", report, Path("report.html"))


def test_shards_and_manifest_must_agree(tmp_path: Path) -> None:
    rows = manifest_rows()
    stored = image_rows(rows)
    stored[3]["width"] = 95
    stored[4]["split"] = "eval"
    del stored[5]
    report = images_report(tmp_path, rows, stored=[*stored, image_rows(manifest_rows(11))[10]])
    assert names(report.failed) == ["pictures.in_shards", "collection.not_in_manifest"]
    assert report.failed[0].examples == tuple(f"images/{n}.jpg (in_shards False)" for n in (3, 4, 5))


def test_refused_files_stop_above_the_share_and_duplicates_do_not_count(tmp_path: Path) -> None:
    def refused(reason: str, n: int) -> dict[str, str]:
        return {"origin": f"bad/{n}.jpg", "reason": reason, "detail": ""}

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = [refused("truncated", 0), *(refused("duplicate", n) for n in range(1, 6))]
    assert images_report(tmp_path / "a", manifest_rows(), one).failed == []  # 1 of 11, allowed 10 %
    two = [*one, refused("empty", 9)]
    [outcome] = images_report(tmp_path / "b", manifest_rows(), two).failed
    assert (outcome.unexpected, outcome.rows) == (2, 12)
    assert outcome.examples == ("bad/0.jpg (reason truncated)", "bad/9.jpg (reason empty)")


def test_near_duplicates_warn_and_do_not_stop(tmp_path: Path) -> None:
    rows = manifest_rows()
    for n in (3, 4, 5):
        rows[n]["phash"] = "f" * 16
    frames = images(tmp_path, rows)
    report = run_gate(frames, image_suites(IMAGE_PARAMS))
    assert report.failed == [] and names(report.warnings) == ["pictures.same_phash"]
    summary = counted(image_summary(frames), report)
    assert summary["near_duplicate_share"] == 0.3 and summary["warnings"] == 1


def reference_rows() -> Rows:
    return [
        {
            "image_id": sha(n),
            "caption": f"A red car number {n}. It is parked.",
            "units": [f"A red car number {n}.", "It is parked."],
            "writer": "file",
            "prompt_sha256": sha(99),
        }
        for n in range(10)
    ]


def question_rows() -> Rows:
    return [
        {
            "image_id": sha(n),
            "question": "What colour is the car?",
            "options": ["red", "blue"],
            "answer": 0,
            "accuracy_with_image": 1.0 if n else None,
            "accuracy_without_image": float("nan"),
        }
        for n in range(3)
    ]


def references(folder: Path, captions: Rows, questions: Rows, manifest: Rows | None = None) -> Frames:
    pq.write_table(pa.Table.from_pylist(manifest or manifest_rows()), folder / "manifest.parquet")
    write_table(folder / "references.parquet", captions, REFERENCES)
    write_table(folder / "questions.parquet", questions, QUESTIONS)
    return reference_facts(*(folder / f"{name}.parquet" for name in ("manifest", "references", "questions")))


def test_good_references_pass(tmp_path: Path) -> None:
    frames = references(tmp_path, reference_rows(), question_rows())
    report = run_gate(frames, reference_suites(REFERENCE_PARAMS))
    assert len(report.outcomes) == sum(map(len, reference_suites(REFERENCE_PARAMS).values())) == 19
    assert report.failed == report.warnings == []
    assert counted(reference_summary(frames), report) == {
        "expectations": 19,
        "warnings": 0,
        "references": 10,
        "coverage": 1.0,
        "words_mean": 8.0,
        "words_max": 8.0,
        "units_mean": 2.0,
        "repetition_max": 0.0,
        "questions": 3,
        "questions_per_eval_image": 1.0,
    }


@pytest.mark.parametrize("name", ["llava-1.5-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"])
def test_a_terse_caption_of_thousands_closes_no_gate_behind_a_paid_stage(tmp_path: Path, name: str) -> None:
    params = check_params(read_params(ROOT / f"recipes/{name}.yaml"))
    writer, rows = params.collect_references.writer, reference_rows()
    assert writer.name == "llm"
    rows[3] |= {"caption": "Snow.", "units": ["There is snow."]}
    rows[4]["caption"] = "so " * writer.max_tokens  # a word is a token at least; what is cut off is no reference
    report = run_gate(references(tmp_path, rows, []), reference_suites(params.validate_references))
    assert report.failed == []


BAD_CAPTIONS: list[tuple[Callable[[Rows], Any], list[str], str]] = [
    (with_row(3, caption=None), ["caption", "words"], "images/3.jpg"),
    (with_row(3, caption=""), ["words"], "images/3.jpg (words 0)"),
    (with_row(3, caption="two words"), ["words"], "images/3.jpg (words 2)"),
    (with_row(3, caption="word " * 21), ["words"], "images/3.jpg (words 21)"),
    (with_row(3, units=[]), ["units"], "images/3.jpg (units 0)"),
    (with_row(3, units=None), ["units"], "images/3.jpg (units 0)"),
    (with_row(3, prompt_sha256=""), ["prompt_sha256"], "images/3.jpg"),
    (with_row(3, prompt_sha256=None), ["prompt_sha256"], "images/3.jpg"),
    (with_row(3, image_id=sha(4)), ["image_id"], "images/4.jpg"),
    (with_row(3, image_id=sha(77)), ["known"], sha(77)),
    (lambda rows: [row.update(caption="I'm sorry, I cannot see it.") for row in rows[:2]], ["caption"], "images/0.jpg"),
    (lambda rows: rows.__delitem__(slice(0, 2)), ["references"], "images/1.jpg (references 0)"),
    (lambda rows: rows.clear(), ["references"], "10 of 10 rows (100.0%)"),
]


@pytest.mark.parametrize(("change", "failed", "example"), BAD_CAPTIONS)
def test_bad_references_stop(tmp_path: Path, change: Callable[[Rows], Any], failed: list[str], example: str) -> None:
    rows = reference_rows()
    change(rows)
    report = run_gate(references(tmp_path, rows, question_rows()), reference_suites(REFERENCE_PARAMS))
    assert [o.column for o in report.failed] == failed
    message = refusal("data/references.parquet", report, tmp_path / "report.html")
    for part in ("data/references.parquet", example, str(tmp_path / "report.html"), report.failed[0].expectation):
        assert part in message


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        (with_row(1, answer=2), "answer_in_range"),
        (with_row(1, answer=-1), "answer_in_range"),
        (with_row(1, answer=None), "answer_in_range"),
        (with_row(1, options=["red", "red "]), "distinct_options"),
        (with_row(1, options=["red"]), "distinct_options"),
        (with_row(1, question=" "), "question"),
        (with_row(1, image_id=sha(77)), "known"),
        (with_row(1, accuracy_with_image=1.5), "accuracy_with_image"),
    ],
)
def test_bad_questions_stop(tmp_path: Path, change: Callable[[Rows], None], failed: str) -> None:
    rows = question_rows()
    change(rows)
    report = run_gate(references(tmp_path, reference_rows(), rows), reference_suites(REFERENCE_PARAMS))
    assert names(report.failed) == [f"questions.{failed}"]


def test_doubtful_references_warn_and_do_not_stop(tmp_path: Path) -> None:
    captions = reference_rows()
    captions[3]["caption"] = "a car " * 9
    captions[4]["writer"] = "scenes"
    report = run_gate(references(tmp_path, captions, []), reference_suites(REFERENCE_PARAMS))
    assert report.failed == []
    assert names(report.warnings) == ["references.repetition", "eval_pictures.questions", "collection.writers"]


def test_a_share_at_its_limit_passes() -> None:
    for bad in range(1, 101):
        frame = pd.DataFrame({"row": [str(n) for n in range(100)], "x": [0] * bad + [1] * (100 - bad)})
        share = bad / 100
        assert 1 - bad / 100 >= no_more_than(share) > 1 - (bad + 1) / 100
        if bad in (10, 41, 59):
            expectation = gxe.ExpectColumnValuesToBeInSet(column="x", value_set=[1], mostly=no_more_than(share))
            assert run_gate({"t": frame}, {"t": [expectation]}).outcomes[0].holds


@pytest.mark.parametrize(
    "caption",
    [
        "I'm sorry, but I can't assist with that.",
        "I am unable to view the image.",
        "As an AI language model, I see a dog.",
        "Sorry, no.",
        "There is a problem: no image was provided.",
        "Please upload the image.",
        "I cannot describe this.",
    ],
)
def test_refusals_are_found(caption: str) -> None:
    frame = pd.DataFrame({"row": ["a", "b"], "caption": [caption, "A sorry dog that cannot see an image of itself."]})
    [outcome] = run_gate({"t": frame}, {"t": [ExpectNoRefusal(severity=CRITICAL)]}).outcomes
    assert outcome.unexpected == 1 and outcome.examples[0].startswith("a (")


FRAME = pd.DataFrame({"row": ["a", "b"], "x": [1, 2], "text": ["p", "q"]})


@pytest.mark.parametrize("severity", [CRITICAL, WARNING])
@pytest.mark.parametrize(
    "broken",
    [
        gxe.ExpectColumnValuesToBeBetween(column="missing", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="text", min_value=0),
        gxe.ExpectColumnValuesToMatchRegex(column="text", regex="("),
    ],
    ids=["no column", "wrong type", "bad pattern"],
)
def test_an_expectation_that_raises_is_never_a_pass(broken: gxe.Expectation, severity: Any) -> None:
    broken.severity = severity
    good = at_least("x", 1, "x is there")
    report = run_gate({"t": FRAME}, {"t": [good, broken, good.copy()]})
    assert [o.holds for o in report.outcomes] == [True, False, True]
    [outcome] = report.failed
    assert outcome.error and outcome.error in refusal("data", report, Path("report.html"))
    assert report.warnings == []


def test_an_expectation_that_was_dropped_is_never_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from great_expectations.datasource.fluent.interfaces import Batch

    real = Batch.validate

    def forgetful(self: Any, suite: Any, **kwargs: Any) -> Any:
        result = real(self, suite, **kwargs)
        result.results = result.results[1:]
        return result

    monkeypatch.setattr(Batch, "validate", forgetful)
    report = run_gate({"t": FRAME}, {"t": [at_least("x", 1, "one"), at_least("x", 0, "two")]})
    assert [o.error for o in report.outcomes] == [gate.NOT_EVALUATED, ""]
    assert len(report.failed) == 1


def test_the_report_is_complete_plain_and_the_same_twice(tmp_path: Path) -> None:
    rows = reference_rows()
    rows[3]["caption"] = "<script>alert(1)</script>"
    rows[4]["caption"] = "I'm sorry <b>"
    frames = references(tmp_path, rows, [])
    texts = []
    for name in ("one", "two"):
        report = run_gate(frames, reference_suites(REFERENCE_PARAMS.model_copy(update={"max_refusal_share": 0.0})))
        html, data = write_report(tmp_path / name, "Gate", report, counted(reference_summary(frames), report))
        texts.append((html.read_text(), data.read_text()))
    assert texts[0] == texts[1]
    html_text, json_text = texts[0]
    assert "<script" not in html_text and "sorry &lt;b&gt;" in html_text and "http" not in html_text
    assert html_text.index("stops the pipeline") < html_text.index("warning</td>") < html_text.index("holds</td>")
    assert len(json.loads(json_text)["expectations"]) == 19


def test_nothing_is_printed_but_what_we_print(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images_report(tmp_path, manifest_rows())
    out, err = capfd.readouterr()
    assert out == err == ""
