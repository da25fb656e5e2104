"""Captions and questions that people wrote: every kind of bad input is told with file, line and fix; none crashes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balcap.collect.engine import Unwritten
from balcap.collect.file import FileWriter, describe, file_questions, file_references, match_images, report_problems
from balcap.collect.rows import CollectError
from balcap.hashing import sha256_text
from balcap.records import Sample

ORIGINS = {"id-a": "images/a.jpg", "id-b": "images/b.jpg", "id-c": "images/c.jpg"}
GOOD = {"image": "images/a.jpg", "caption": "A red car. It is parked."}


def sample(image_id: str) -> Sample:
    return Sample(image_id, b"", "train", "folder", "CC0-1.0")


def write(path: Path, *lines: Any, encoding: str = "utf-8") -> Path:
    """A JSONL file; texts stand as they are."""
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    path.write_bytes(text.encode(encoding))
    return path


def captions(path: Path, encoding: str = "utf-8") -> FileWriter:
    return file_references(path, encoding, ORIGINS)


def test_a_caption_becomes_a_reference(tmp_path: Path) -> None:
    given_units = {"image": "./images/b.jpg", "caption": " A dog. ", "units": ["There is a dog.", "There is a dog."]}
    writer = captions(write(tmp_path / "captions.jsonl", GOOD, "", given_units))
    [split], [given_] = writer(sample("id-a")), writer(sample("id-b"))
    assert split.units == ("A red car.", "It is parked.") and split.caption == GOOD["caption"]
    assert given_.units == ("There is a dog.",) and given_.caption == "A dog."
    assert split.writer == "file" and len(split.prompt_sha256) == len(sha256_text(""))
    assert writer.problems == []
    with pytest.raises(Unwritten, match="no line names this picture"):
        writer(sample("id-c"))


BAD_LINES: list[tuple[Any, str]] = [
    ("{not json", "not JSON"),
    ('{"image": "images/a.jpg"', "not JSON"),
    ("[1, 2]", "not a JSON object"),
    ("[" * 100_000, "not JSON"),
    ('{"image": ' + "9" * 5000 + "}", "not JSON"),
    ({"caption": "No image."}, "no image"),
    ({"image": 7, "caption": "x"}, "image is not a text but int"),
    ({"image": "images/a.jpg"}, "no caption"),
    ({"image": "images/a.jpg", "caption": ""}, "no caption"),
    ({"image": "images/a.jpg", "caption": " \n "}, "empty caption"),
    ({"image": "images/a.jpg", "caption": ["x"]}, "caption is not a text but list"),
    ('{"image": "images/a.jpg", "caption": "half \\ud83d"}', "half a character"),
    ('{"image": "images/a.jpg", "caption": "nul \\u0000"}', "control character"),
    ({"image": "images/a.jpg", "caption": "x", "units": "a, b"}, "units is not a JSON list"),
    ({"image": "images/a.jpg", "caption": "x", "units": {"a": 1}}, "units is not a list of texts but dict"),
    ({"image": "images/a.jpg", "caption": "x", "units": ["ok", " "]}, "empty one of the units"),
    ({"image": "images/a.jpg", "caption": "x", "units": [1]}, "one of the units is not a text but int"),
    ({"image": "images/missing.jpg", "caption": "x"}, "no such picture in data/manifest.parquet"),
    ({"image": "/etc/passwd", "caption": "x"}, "no such picture"),
    ({"image": "../../images/x.jpg", "caption": "x"}, "no such picture"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES, ids=[reason for _, reason in BAD_LINES])
def test_a_bad_line_is_counted_with_its_number(tmp_path: Path, bad: Any, reason: str) -> None:
    other = {"image": "images/b.jpg", "caption": "A dog."}
    writer = captions(write(tmp_path / "captions.jsonl", other, bad, GOOD))
    [problem] = writer.problems
    assert problem.line == 2 and reason in problem.reason
    # the picture's other line counts, and the rest of the file is read
    assert writer(sample("id-a"))[0].caption == GOOD["caption"] and writer(sample("id-b"))
    text = "\n".join(describe(writer.path, writer.problems))
    assert "captions.jsonl: 1 line(s) not used" in text and "line 2" in text
    text.encode()  # can be printed


def test_of_two_captions_the_first_usable_one_counts(tmp_path: Path) -> None:
    lines = [GOOD | {"caption": ""}, GOOD, GOOD | {"caption": "Another."}, GOOD | {"image": "images/../images/a.jpg"}]
    writer = captions(write(tmp_path / "captions.jsonl", *lines))
    assert writer(sample("id-a"))[0].caption == GOOD["caption"]
    assert [problem.line for problem in writer.problems] == [1, 3, 4]
    assert "line 2 is used" in writer.problems[1].reason


def test_a_picture_without_reference_is_told_with_the_line_at_fault(tmp_path: Path) -> None:
    writer = captions(write(tmp_path / "captions.jsonl", GOOD, {"image": "images/b.jpg", "caption": " "}))
    with pytest.raises(Unwritten, match=r"captions\.jsonl: line 2: empty caption"):
        writer(sample("id-b"))


def test_a_picture_that_nothing_names_is_told_with_the_lines_that_might(tmp_path: Path) -> None:
    writer = captions(write(tmp_path / "captions.jsonl", GOOD, "{", "[]"))
    with pytest.raises(Unwritten, match="no line names this picture; not readable: line 2, 3"):
        writer(sample("id-b"))


def test_problems_are_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = captions(write(tmp_path / "captions.jsonl", GOOD, *["{"] * 20))
    assert report_problems(writer, tmp_path / "problems.parquet") == 20
    out = capsys.readouterr().out
    assert out.startswith("warning: ") and "line 2: not JSON" in out and "and 15 more" in out
    table = pq.read_table(tmp_path / "problems.parquet").to_pydict()
    assert table["line"] == list(range(2, 22))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_every_encoding_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    path = tmp_path / f"captions{suffix}"
    text = json.dumps(GOOD | {"caption": "Ein Café in Köln."}, ensure_ascii=False) + "\n"
    if suffix == ".csv":
        text = "image,caption\r\nimages/a.jpg,Ein Café in Köln.\r\n"
    path.write_bytes(text.encode(encoding))
    assert captions(path, encoding)(sample("id-a"))[0].caption == "Ein Café in Köln."


@pytest.mark.parametrize(
    ("stored", "declared", "expected"),
    [
        ("latin-1", "utf-8", ["line 2", "0xe9 is not utf-8", "writer.encoding"]),
        ("utf-8-sig", "utf-8", ["line 1", "writer.encoding: utf-8-sig"]),
        ("utf-16", "utf-8", ["line 1", "writer.encoding: utf-16"]),
        ("utf-8", "utf-16", ["line 1", "not utf-16", "writer.encoding"]),
        ("utf-8", "latin-1", ["writer.encoding: utf-8", "garble"]),
        ("utf-8", "cp1252", ["writer.encoding: utf-8", "garble"]),
        ("utf-16-le", "utf-8", ["line 2", "0xe9 is not utf-8"]),
    ],
)
def test_a_wrong_encoding_is_told_with_the_fix(tmp_path: Path, stored: str, declared: str, expected: list[str]) -> None:
    path = write(tmp_path / "captions.jsonl", GOOD, GOOD | {"caption": "Ein Café."}, encoding=stored)
    with pytest.raises(CollectError) as error:
        captions(path, declared)
    for part in ("captions.jsonl", *expected):
        assert part in str(error.value)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text(
        'image,caption,units\nimages/a.jpg,"A car, red.\nParked.","[""A car."", ""It is red.""]"\n'
        'images/b.jpg,one,two,three\nimages/b.jpg,"A "dog",\n\nimages/b.jpg,A dog.,\n'
    )
    writer = captions(path)
    [reference] = writer(sample("id-a"))
    assert reference.caption == "A car, red.\nParked." and reference.units == ("A car.", "It is red.")
    assert writer(sample("id-b"))[0].units == ("A dog.",)
    assert [(p.line, p.reason.split(" (")[0]) for p in writer.problems] == [
        (4, "4 cells under 3 columns"),
        (5, "not CSV"),
    ]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "captions.parquet"
    rows = [GOOD | {"units": ["A car."]}, GOOD | {"image": "images/b.jpg", "caption": None, "units": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    writer = captions(path)
    assert writer(sample("id-a"))[0].units == ("A car.",)
    assert [(p.line, p.reason) for p in writer.problems] == [(2, "no caption")]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("captions.jsonl", None, "no such file"),
        ("captions.txt", b"x", "allowed: .json, .jsonl, .csv, .parquet"),
        ("captions", b"x", "no suffix"),
        ("captions.jsonl", b"", "no line can be used"),
        ("captions.jsonl", b"{\n[\n", "line 2: not JSON"),
        ("captions.csv", b"", "no column image, caption"),
        ("captions.csv", b"image,text\na,b\n", "no column caption; found: image, text"),
        ("captions.csv", b"image,caption,image\n", "column image stands there twice"),
        ("captions.csv", b'image,"caption', "not a CSV header"),
        ("captions.parquet", b"PAR1 no parquet", "not a readable parquet file"),
    ],
)
def test_an_unusable_file_is_told(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CollectError, match=f"(?s)captions.*{expected}"):
        captions(tmp_path / name)


@pytest.mark.parametrize(
    ("folder", "named", "origin"),
    [
        ("data/photos", "images/{}.jpg", "images/{}.jpg"),  # prepare.path: data/photos
        ("data/photos", "images/{}.jpg", "{}.jpg"),  # prepare.path: data/photos/images
        ("data/photos", "images/{}.jpg", "photos/images/{}.jpg"),  # prepare.path: data
        ("data/captions", "../photos/{}.jpg", "photos/{}.jpg"),
        (".", "images/{}.jpg", "images/{}.jpg"),
        ("data/captions", "scene-0000000{}", "scene-0000000{}"),
    ],
)
def test_images_are_found_wherever_the_pictures_were_read_from(folder: str, named: str, origin: str) -> None:
    origins = {f"id-{n}": origin.format(n) for n in range(3)}
    found = match_images([named.format(n) for n in (0, 2, 9)], Path(folder) / "captions.jsonl", origins)
    assert found == {named.format(0): "id-0", named.format(2): "id-2"}


def test_a_thumbnail_of_the_same_name_is_another_picture() -> None:
    origins = {"big": "images/1.jpg", "small": "1.jpg"}
    assert match_images(["images/1.jpg"], Path("data/p/captions.jsonl"), origins) == {"images/1.jpg": "big"}
    assert match_images(["1.jpg"], Path("data/p/captions.jsonl"), origins) == {"1.jpg": "small"}


ASK = {"image": "images/a.jpg", "question": "What colour?", "options": ["red", "blue"], "answer": "blue"}


def questions(tmp_path: Path, *lines: Any, limit: int = 10) -> FileWriter:
    return file_questions(write(tmp_path / "questions.jsonl", *lines), "utf-8", ORIGINS, limit)


@pytest.mark.parametrize(
    ("options", "answer", "index"),
    [
        (["red", "blue"], "blue", 1),
        (["red", "blue"], 0, 0),
        (["red", "blue"], "1", 1),
        (["3", "2", "1"], "1", 2),  # a text goes before an index
        (["3", "2", "1"], 1, 1),
        ('["red", "blue"]', " red ", 0),
    ],
)
def test_an_answer_is_a_text_or_an_index(tmp_path: Path, options: Any, answer: Any, index: int) -> None:
    [question] = questions(tmp_path, ASK | {"options": options, "answer": answer})(sample("id-a"))
    assert question.answer == index and math.isnan(question.accuracy_with_image)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "green"}, "neither one of the options nor an index from 0 to 1"),
        ({"answer": 2}, "neither"),
        ({"answer": -1}, "neither"),
        ({"answer": True}, "neither"),
        ({"answer": 0.0}, "neither"),
        ({"answer": None}, "neither"),
        ({"options": ["red"]}, "two or more different"),
        ({"options": ["red", " red"]}, "two or more different"),
        ({"options": None}, "two or more different"),
        ({"options": "red|blue"}, "not a JSON list"),
        ({"question": ""}, "no question"),
        ({"accuracy_with_image": 1.5}, "not a share from 0 to 1"),
        ({"accuracy_without_image": "often"}, "not a share from 0 to 1"),
        ({"question": "Known?"}, "line 1 is used"),
    ],
)
def test_a_bad_question_is_counted(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    writer = questions(tmp_path, ASK | {"question": "Known?", "accuracy_with_image": 0.5}, ASK | change)
    [problem] = writer.problems
    assert problem.line == 2 and reason in problem.reason
    assert [q.accuracy_with_image for q in writer(sample("id-a"))] == [0.5]


@pytest.mark.parametrize(
    ("name", "content"), [("q.jsonl", "\n"), ("q.json", "[]"), ("q.csv", "image,question,options,answer\n")]
)
def test_a_questions_file_may_be_empty_and_no_other(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    writer = file_questions(tmp_path / name, "utf-8", ORIGINS, 10)
    assert writer.records == {} and writer.problems == []
    with pytest.raises(Unwritten, match="no line names this picture"):
        writer(sample("id-a"))
    (tmp_path / "captions.jsonl").touch()
    with pytest.raises(CollectError, match="no line can be used"):
        captions(tmp_path / "captions.jsonl")


def test_questions_that_are_all_unusable_are_told(tmp_path: Path) -> None:
    with pytest.raises(CollectError, match=r"(?s)no line can be used.*neither one of the options"):
        questions(tmp_path, ASK | {"answer": "green"})


def test_at_most_limit_questions_are_kept(tmp_path: Path) -> None:
    writer = questions(tmp_path, *(ASK | {"question": f"{n}?"} for n in range(5)), limit=3)
    assert [q.question for q in writer(sample("id-a"))] == ["0?", "1?", "2?"]
    assert writer.problems == []


ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)
KEYS = st.sampled_from(["image", "caption", "units", "question", "options", "answer", "accuracy_with_image"])


@pytest.mark.parametrize("read", [file_references, partial(file_questions, limit=3)])
@settings(max_examples=50)
@given(st.lists(st.dictionaries(KEYS, ANY_JSON | st.just("images/a.jpg")) | ANY_JSON, max_size=5))
def test_no_content_crashes(
    tmp_path_factory: pytest.TempPathFactory, read: Callable[..., FileWriter], rows: list[Any]
) -> None:
    path = write(tmp_path_factory.mktemp("any") / "captions.jsonl", *(json.dumps(row) for row in rows))
    try:
        writer = read(path, "utf-8", ORIGINS)
    except CollectError as error:
        str(error).encode()
    else:
        assert set(writer.records) <= set(ORIGINS)
