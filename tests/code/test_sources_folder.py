"""The source `folder`: what is a candidate, what is never opened, whose the pictures are."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from balcap.images import Rejected
from balcap.params.prepare import Prepare
from balcap.sources import SOURCES, RawImage, SourceError

ROWS = [
    {"image": "a.jpg", "author": "Ann", "source": "https://example.org/a", "license": "CC0-1.0"},
    {"image": "sub/b.png", "author": "", "source": "", "license": "CC-BY-4.0"},
    {"image": "gone.jpg", "author": "Nobody", "source": "", "license": ""},
]


def params(attribution: str | None = None, max_bytes: int = 100_000) -> Prepare:
    return Prepare.model_validate(
        {
            "path": "pictures",
            "source": {"name": "folder", "license": "all rights reserved", "attribution": attribution},
            "images": {"size": 64, "format": "png", "quality": None},
            "limits": {"max_pixels": 100_000, "max_bytes": max_bytes, "min_side": 8, "max_reject_share": 1.0},
            "split": {"seed": 0, "eval_share": 0.5},
            "shard_size": 10,
        }
    )


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(("a.jpg", "sub/b.png", "c")):
        save(folder / name, i)
    return folder


def save(path: Path, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def found(attribution: str | None = None) -> list[RawImage]:
    return list(SOURCES["folder"](params(attribution)))


def refusal(raw: RawImage) -> tuple[str, str]:
    with pytest.raises(Rejected) as why:
        raw.load()
    return why.value.reason, why.value.detail


def test_candidates_come_sorted_with_their_bytes(pictures: Path) -> None:
    raws = found()
    assert [raw.origin for raw in raws] == ["a.jpg", "c", "sub/b.png"]
    assert [raw.load() for raw in raws] == [(pictures / raw.origin).read_bytes() for raw in raws]
    assert {(raw.source, raw.author, raw.license) for raw in raws} == {("pictures", "unknown", "all rights reserved")}


def test_descriptions_and_hidden_files_are_no_candidates(pictures: Path) -> None:
    for name in ("captions.jsonl", "photos.CSV", "x.parquet", "README.md", "notes.txt", "LICENSE", ".DS_Store"):
        (pictures / name).write_text("x")
    (pictures / ".git").mkdir()
    save(pictures / ".git/hidden.png")
    (pictures / "film.mp4").write_bytes(b"x")
    assert [raw.origin for raw in found()] == ["a.jpg", "c", "film.mp4", "sub/b.png"]


def test_links_out_are_not_followed(pictures: Path, tmp_path: Path) -> None:
    save(tmp_path / "outside.png")
    (tmp_path / "pictures-too").mkdir()  # a name that begins like the folder's
    save(tmp_path / "pictures-too/x.png")
    (pictures / "out.png").symlink_to("../outside.png")
    (pictures / "absolute.png").symlink_to(tmp_path / "pictures-too/x.png")
    (pictures / "folder").symlink_to("..")
    (pictures / "chain.png").symlink_to("out.png")
    (pictures / "nowhere.png").symlink_to("gone.png")
    (pictures / "loop.png").symlink_to("loop.png")
    reasons = {raw.origin: refusal(raw)[0] for raw in found() if (pictures / raw.origin).is_symlink()}
    assert reasons == {
        "out.png": "link_outside",
        "absolute.png": "link_outside",
        "folder": "link_outside",
        "chain.png": "link_outside",
        "nowhere.png": "broken_link",
        "loop.png": "broken_link",
    }


def test_links_inside_are_read_and_the_folder_itself_may_be_one(pictures: Path, tmp_path: Path) -> None:
    (pictures / "again.png").symlink_to("sub/b.png")
    (pictures / "sub2").symlink_to("sub")
    pictures.rename(tmp_path / "elsewhere")
    (tmp_path / "pictures").symlink_to("elsewhere")
    raws = {raw.origin: raw for raw in found()}
    assert list(raws) == ["a.jpg", "again.png", "c", "sub/b.png"]
    assert raws["again.png"].load() == raws["sub/b.png"].load()


def test_special_files_are_never_opened(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pictures / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("pictures/socket.jpg")
        (pictures / "linked.jpg").symlink_to("pipe.jpg")
        raws = {raw.origin: raw for raw in found()}
        monkeypatch.setattr("builtins.open", None)  # opening a pipe would wait for ever
        assert refusal(raws["pipe.jpg"]) == ("special_file", "a pipe")
        assert refusal(raws["linked.jpg"]) == ("special_file", "a pipe")
        assert refusal(raws["socket.jpg"]) == ("special_file", "a socket")


def test_large_files_are_not_read(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (pictures / "huge.jpg").open("wb") as file:
        file.truncate(10**12)  # sparse
    (pictures / "zero.jpg").touch()
    raws = {raw.origin: raw for raw in found()}
    assert refusal(raws["huge.jpg"])[0] == "too_many_bytes"
    assert refusal(raws["zero.jpg"])[0] == "empty"


def test_names_that_are_no_text(pictures: Path) -> None:
    with open(os.fsencode(pictures) + b"/caf\xe9.png", "wb") as file:
        file.write((pictures / "c").read_bytes())
    raw = next(raw for raw in found() if raw.origin.startswith("caf"))
    assert raw.origin == "caf\\xe9.png"
    assert raw.load() == (pictures / "c").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_cannot_be_listed(pictures: Path) -> None:
    (pictures / "sub").chmod(0)
    assert refusal(next(raw for raw in found() if raw.origin == "sub"))[0] == "unreadable"
    (pictures / "sub").chmod(0o700)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        lines = [",".join(row.values()) for row in (dict(zip(rows[0], rows[0], strict=True)), *rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(f"{row}\n".replace("'", '"') for row in rows))


@pytest.mark.parametrize("name", ["credits.jsonl", "credits.csv", "credits.parquet"])
def test_attribution(pictures: Path, name: str) -> None:
    write_rows(pictures / name, ROWS)
    credits = {raw.origin: (raw.author, raw.source, raw.license) for raw in found(name)}
    assert credits == {
        "a.jpg": ("Ann", "https://example.org/a", "CC0-1.0"),
        "c": ("unknown", "pictures", "all rights reserved"),
        "sub/b.png": ("unknown", "pictures", "CC-BY-4.0"),
    }


def test_attribution_is_relative_to_its_own_folder(pictures: Path) -> None:
    write_rows(pictures / "sub/credits.jsonl", [ROWS[0] | {"image": "b.png"}, ROWS[0] | {"image": "../c"}])
    assert {raw.origin for raw in found("sub/credits.jsonl") if raw.author == "Ann"} == {"sub/b.png", "c"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gone.jsonl", None, "no such file"),
        ("credits.txt", "x", "is .jsonl, .csv or .parquet"),
        ("credits.jsonl", '{"image": "a.jpg"}\n{"image": ', "JSON parse error"),
        ("credits.jsonl", '{"image": 7}\n', "JSON parse error"),
        ("credits.csv", "picture,author\na.jpg,Ann\n", "no column `image`; found: picture, author"),
        ("credits.csv", "image,author\na.jpg\n", "Expected 2 columns, got 1"),
        ("credits.csv", "", "Empty CSV file"),
        ("credits.parquet", "PAR1", "credits.parquet"),
        ("credits.jsonl", '{"image": "pictures/a.jpg"}\n', "none of its 1 images is in the folder"),
    ],
)
def test_a_faulty_attribution_file_is_named(pictures: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (pictures / name).write_text(text)
    with pytest.raises(SourceError) as error:
        found(name)
    assert says in str(error.value) and name in str(error.value)


def test_the_folder_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"prepare\.path: pictures is not a folder"):
        found()
