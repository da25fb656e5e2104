"""Records in ShareGPT4V's form: captions as references, instructions for a writer; what is broken is told by record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from balcap.collect.engine import Unwritten
from balcap.collect.file import FileWriter, file_instructions, file_references
from balcap.collect.rows import CollectError
from balcap.records import Sample

ORIGINS = {f"id-{n}": f"coco/train2017/{n:012d}.jpg" for n in range(4)}


def sample(n: int) -> Sample:
    return Sample(f"id-{n}", b"", "train", "folder", "CC0-1.0")


def record(
    n: int, caption: Any = "A cat. It sleeps.", question: Any = "What is this photo about?\n<image>"
) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]
    return {"id": f"{n:012d}", "image": f"coco/train2017/{n:012d}.jpg", "conversations": turns}


def stored(folder: Path, suffix: str, *records: Any) -> Path:
    """In a folder beside the pictures, as ShareGPT4V lies."""
    path = folder / f"sharegpt4v{suffix}"
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    path.write_text("[" + ",\n".join(lines) + "]" if suffix == ".json" else "\n".join(lines) + "\n")
    return path


def references(path: Path) -> FileWriter:
    return file_references(path, "utf-8", ORIGINS)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_captions_and_instructions_are_read(tmp_path: Path, suffix: str) -> None:
    path = stored(tmp_path, suffix, *(record(n, f"There are {n} cats. They sleep.") for n in range(4)))
    writer = references(path)
    [reference] = writer(sample(2))
    assert reference.caption == "There are 2 cats. They sleep." and not writer.problems
    assert reference.units == ("There are 2 cats.", "They sleep.")
    told = file_instructions(path, "utf-8", ORIGINS)
    assert [told(sample(n)) for n in range(4)] == [["What is this photo about?"]] * 4


def test_plain_rows_hold_instructions_too_and_stand_beside_records(tmp_path: Path) -> None:
    plain = {"image": "coco/train2017/000000000001.jpg", "instruction": "Name it.", "caption": "A dog."}
    path = stored(tmp_path, ".jsonl", record(0), plain)
    assert [references(path)(sample(n))[0].caption for n in (0, 1)] == ["A cat. It sleeps.", "A dog."]
    assert file_instructions(path, "utf-8", ORIGINS)(sample(1)) == ["Name it."]


BROKEN: list[tuple[Any, str]] = [
    (record(1) | {"conversations": []}, "not one turn of human and one of gpt, but 0"),
    (record(1) | {"conversations": record(1)["conversations"] * 2}, "but 4"),
    (record(1) | {"conversations": record(1)["conversations"][::-1]}, "('gpt', 'human')"),
    (record(1) | {"conversations": "What is this?"}, "conversations is not a list of turns"),
    (record(1) | {"conversations": ["What", "A cat"]}, "conversations is not a list of turns"),
    (record(1) | {"conversations": [{"value": "x"}, {"value": "y"}]}, "(None, None)"),
    (record(1, caption=None), "no caption"),
    (record(1, caption=" "), "empty caption"),
    (record(1, caption=7), "caption is not a text but int"),
    ({"id": "1", "conversations": record(1)["conversations"]}, "no image"),
    (record(1) | {"image": "sam/images/sa_1.jpg"}, "no such picture in data/manifest.parquet"),
    (record(0), "a second one for this picture; record 1 is used"),
    ('"text"', "not a JSON object"),
]


@pytest.mark.parametrize(("bad", "reason"), BROKEN, ids=[reason for _, reason in BROKEN])
def test_a_broken_record_is_counted_with_its_number(tmp_path: Path, bad: Any, reason: str) -> None:
    writer = references(stored(tmp_path, ".json", record(0), bad, record(2)))
    [problem] = writer.problems
    assert problem.line == 2 and reason in problem.reason
    assert writer(sample(0)) and writer(sample(2))


def test_a_picture_without_caption_is_told_with_the_record_at_fault(tmp_path: Path) -> None:
    writer = references(stored(tmp_path, ".json", record(0), record(1, caption=" ")))
    with pytest.raises(Unwritten, match=r"sharegpt4v\.json: record 2: empty caption"):
        writer(sample(1))


@pytest.mark.parametrize("question", [None, "<image>", 7])
def test_an_instruction_that_says_nothing_is_none(tmp_path: Path, question: Any) -> None:
    told = file_instructions(stored(tmp_path, ".json", record(0), record(1, question=question)), "utf-8", ORIGINS)
    with pytest.raises(Unwritten, match=r"record 2: (no|empty|instruction is not)"):
        told(sample(1))
    assert references(stored(tmp_path, ".json", record(0), record(1, question=question)))(sample(1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"image": "a"}', "line 1: not JSON"),
        ('[\n{"image": "a"},\n{"image": }\n]', "line 3: not JSON"),
        ('{"image": "a"}\n{"image": "b"}', "one object per line is .jsonl"),
        ('{"image": "a"}', "holds no list of records"),
        ("[" * 100_000, "not JSON"),
        ("[" + "9" * 5000 + "]", "not JSON"),
        ("[]", "no line can be used"),
    ],
)
def test_an_unusable_file_is_told(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "all.json").write_text(text)
    with pytest.raises(CollectError, match=f"(?s)all.json.*{expected}"):
        references(tmp_path / "all.json")
