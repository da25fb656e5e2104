"""`prepare` as a whole: equal inputs give equal bytes, rejects have reasons, faults leave earlier outputs intact."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from balcap.hashing import dir_md5, file_md5, image_id
from balcap.images import decode
from balcap.params.prepare import Prepare
from balcap.records_io import IMAGES, read_samples
from balcap.sources import SourceError, ingest
from balcap.sources.ingest import Prepared, prepare, split_of
from balcap.sources.shards import MANIFEST, REJECTS
from balcap.sources.spill import TABLES
from steps._stage import main
from steps.prepare import body

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "data/examples/photos"


def params(**changes: Any) -> Prepare:
    section = {
        "path": "pictures",
        "source": {"name": "folder", "license": "CC0-1.0", "attribution": None},
        "images": {"size": 32, "format": "png", "quality": None},
        "limits": {"max_pixels": 1_000_000, "max_bytes": 1_000_000, "min_side": 8, "max_reject_share": 0.5},
        "split": {"seed": 0, "eval_share": 0.3},
        "shard_size": 7,
    }
    return Prepare.model_validate(section | changes)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 30 + seed % 20, 3), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 pictures, one duplicate, three that are none."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(pixels(i)).save(folder / f"{i:02}.png")
    Image.fromarray(pixels(3)).save(folder / "99.bmp")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no picture")
    return folder


def run(where: str, workers: int = 1, **changes: Any) -> tuple[Prepared, Path]:
    out = Path(where)
    out.mkdir()
    (out / "work").mkdir()
    paths = (out / "work", out / "images", out / "manifest.parquet", out / "rejects.parquet")
    return prepare(params(**changes), workers, *paths), out


def content(out: Path) -> list[str]:
    return [dir_md5(out / "images"), file_md5(out / "manifest.parquet"), file_md5(out / "rejects.parquet")]


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_shards_manifest_and_rejects_agree(pictures: Path) -> None:
    done, out = run("out")
    samples, manifest = list(read_samples(out / "images")), rows(out / "manifest.parquet")
    assert done.splits == dict(Counter(sample.split for sample in samples))
    assert sum(done.splits.values()) == len(manifest) == 40
    assert done.reasons == {"duplicate": 1, "empty": 1, "not_an_image": 1, "truncated": 1}
    by_id = {sample.image_id: sample for sample in samples}
    for row in manifest:
        original = pixels(int(row["origin"][:2]))
        height, width = original.shape[:2]
        assert row["image_id"] == image_id(width, height, original.tobytes())
        assert (row["width"], row["height"], row["stored_width"]) == (width, height, min(32, width))
        sample = by_id[row["image_id"]]
        assert (sample.split, sample.source, sample.license) == (row["split"], "pictures", "CC0-1.0")
        assert decode(sample.image).size == (row["stored_width"], row["stored_height"])
        assert row["bytes"] == len(sample.image)
        assert row["image_id"] in pq.read_table(out / "images" / row["shard"])["image_id"].to_pylist()
    assert [row["image_id"] for row in manifest] == sorted(by_id)
    for split in ("train", "eval"):
        shards = sorted((out / "images").glob(f"{split}-*.parquet"))
        sizes = [pq.read_metadata(shard).num_rows for shard in shards]
        assert all(size == 7 for size in sizes[:-1]) and 0 < sizes[-1] <= 7
        ids = [sample.image_id for sample in read_samples(out / "images", split)]
        assert ids == sorted(ids) and len(ids) == done.splits[split]
        assert all(pq.read_schema(shard).equals(IMAGES) for shard in shards)
    assert pq.read_schema(out / "manifest.parquet").equals(MANIFEST)
    assert pq.read_schema(out / "rejects.parquet").equals(REJECTS)
    assert not (out / "work/spill").exists()


def test_rejects_name_origin_and_reason(pictures: Path) -> None:
    _, out = run("out")
    found = [(row["origin"], row["reason"]) for row in rows(out / "rejects.parquet")]
    assert found == [
        ("99.bmp", "duplicate"),
        ("broken.jpg", "truncated"),
        ("empty.jpg", "empty"),
        ("text.jpg", "not_an_image"),
    ]
    assert rows(out / "rejects.parquet")[0]["detail"] == "same pixels as 03.png"


def test_equal_bytes_twice_and_with_any_number_of_processes(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WORTHWHILE", 1)
    monkeypatch.setattr(ingest, "CHUNK", 3)
    contents = [content(run(f"out{i}", workers)[1]) for i, workers in enumerate((1, 1, 2))]
    assert contents[1:] == contents[:-1]


def test_rows_do_not_depend_on_how_many_are_in_memory(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balcap.sources.shards.GROUP", 3000)
    few = run("few")[1]
    monkeypatch.setattr("balcap.sources.shards.GROUP", 10**9)
    many = run("many")[1]
    assert pq.read_metadata(few / "manifest.parquet").num_row_groups > 1
    assert rows(few / "manifest.parquet") == rows(many / "manifest.parquet")
    assert list(read_samples(few / "images")) == list(read_samples(many / "images"))


def test_the_split_is_a_hash_and_stays(pictures: Path) -> None:
    digest = hashlib.sha256(b"5:abc").digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    assert split_of("abc", 5, share * 0.999) == "train"
    assert split_of("abc", 5, share * 1.001) == "eval"
    ids = [f"{i:064x}" for i in range(4000)]
    held_out = {i for i in ids if split_of(i, 0, 0.1) == "eval"}
    assert 300 < len(held_out) < 500
    assert held_out < {i for i in ids if split_of(i, 0, 0.2) == "eval"}  # a larger share takes nothing back
    assert held_out != {i for i in ids if split_of(i, 1, 0.1) == "eval"}
    before = {row["image_id"]: row["split"] for row in rows(run("out1")[1] / "manifest.parquet")}
    for i in range(10):
        (pictures / f"{i:02}.png").unlink()
    after = {row["image_id"]: row["split"] for row in rows(run("out2")[1] / "manifest.parquet")}
    assert after.items() < before.items()


def test_too_many_rejects_stop_and_leave_the_table(pictures: Path) -> None:
    limits = params().limits.model_dump() | {"max_reject_share": 0.05}
    with pytest.raises(SourceError) as error:
        run("out", limits=limits)
    message = str(error.value)
    assert "3 of 43 pictures of pictures (7.0%)" in message and "allows 5.0%" in message
    assert "empty.jpg: empty" in message and "out/work/rejects.parquet" in message
    assert len(rows(Path("out/work/rejects.parquet"))) == 4  # with the duplicate, which is no fault
    assert sorted(path.name for path in Path("out").iterdir()) == ["work"]
    run("just", limits=limits | {"max_reject_share": 3 / 43})


def test_nothing_but_rejects_is_an_error_at_any_share(pictures: Path) -> None:
    for path in pictures.glob("*.[pb][nm][gp]"):
        path.unlink()
    with pytest.raises(SourceError, match="one picture must be left"):
        run("out", limits=params().limits.model_dump() | {"max_reject_share": 1.0})
    for path in pictures.iterdir():
        path.unlink()
    with pytest.raises(SourceError, match="there is no picture in pictures"):
        run("out2")


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["Spill.add", "write_shards", "write_manifest"])
def test_a_full_disk_is_one_message(pictures: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(f"balcap.sources.ingest.{where}", full_disk)
    with pytest.raises(SourceError, match="no space left for the pictures of pictures"):
        run("out")
    assert not Path("out/work/spill").exists()


def test_a_full_database_is_a_full_disk(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("balcap.sources.spill.TABLES", TABLES + "PRAGMA max_page_count = 3;")
    with pytest.raises(SourceError, match="no space left"):
        run("out")


def test_other_faults_of_the_system_are_not_disguised(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("balcap.sources.ingest.write_shards", denied)
    with pytest.raises(PermissionError):
        run("out")


def test_a_file_that_vanishes_is_unreadable(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = list(ingest.SOURCES["folder"](params()))
    monkeypatch.setitem(ingest.SOURCES, "folder", lambda _: iter(listed))
    (pictures / "00.png").unlink()
    _, out = run("out")
    assert {"origin": "00.png", "reason": "unreadable", "detail": "No such file or directory"} in rows(
        out / "rejects.parquet"
    )


def test_a_worker_that_is_killed_ends_the_stage(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WORTHWHILE", 1)
    listed = list(ingest.SOURCES["folder"](params()))
    listed[5] = replace(listed[5], load=kill)
    monkeypatch.setitem(ingest.SOURCES, "folder", lambda _: iter(listed))
    with pytest.raises(SourceError, match=r"00\.png … 31\.png was killed"):
        run("out", workers=2)


def kill() -> bytes:
    os.kill(os.getpid(), 9)
    return b""


def test_a_worker_that_hangs_ends_the_stage(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "WORTHWHILE", 1)
    monkeypatch.setattr(ingest, "DEADLINE", 3.0)
    os.mkfifo("pipe")
    listed = [replace(raw, load=wait_for_ever) for raw in ingest.SOURCES["folder"](params())]
    monkeypatch.setitem(ingest.SOURCES, "folder", lambda _: iter(listed))
    with pytest.raises(SourceError, match="took longer than 3 s"):
        run("out", workers=2)


def wait_for_ever() -> bytes:
    return Path("pipe").read_bytes()


def test_the_example_and_its_split() -> None:
    """Recipe photos: 24 pictures with authors, 18 to learn from and 6 held out."""
    recipe = yaml.safe_load((ROOT / "recipes/photos.yaml").read_text())["prepare"]
    splits = Counter(
        split_of(image_id(*image.size, image.tobytes()), recipe["split"]["seed"], recipe["split"]["eval_share"])
        for image in (decode(path.read_bytes()) for path in (EXAMPLE / "images").iterdir())
    )
    assert splits == {"train": 18, "eval": 6}


class Recorder:
    """A tracked run that only remembers."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.artifacts: list[str] = []

    def log(self, metrics: dict[str, float]) -> None:
        self.metrics |= metrics

    def artifact(self, path: Path, folder: str) -> None:
        self.artifacts.append(f"{folder}/{path.name}")


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A checkout in which the stage can run on the example photographs, in this process."""
    for name in ("balcap", "steps", "data/examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "recipes/photos.yaml", tmp_path / "params.yaml")
    recorder = Recorder()
    monkeypatch.setattr("steps._stage.stage_run", lambda *_: nullcontext(recorder))
    monkeypatch.setenv("BALCAP_WORK", str(tmp_path / ".work"))
    monkeypatch.setattr("sys.stdout", StringIOWithBuffering())
    monkeypatch.chdir(tmp_path)
    return recorder


class StringIOWithBuffering(io.StringIO):
    def reconfigure(self, **_: bool) -> None:
        pass


def test_the_stage(tracked: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    main(body)
    assert tracked.metrics == {"pictures/eval": 6, "pictures/train": 18}
    manifest = rows(Path("data/manifest.parquet"))
    assert {row["license"] for row in manifest} == {"Public Domain", "CC0-1.0"}
    assert all(row["author"] != "unknown" and row["source"].startswith("https://") for row in manifest)
    before = content(Path("data"))
    for i in range(3):
        Path(f"data/examples/photos/{i}.jpg").touch()
    with pytest.raises(SystemExit) as ended:
        main(body)
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: 3 of 27 pictures") and "0.jpg: empty" in message
    assert tracked.artifacts == ["prepare/rejects.parquet"] * 2
    assert content(Path("data")) == before
    assert not list(Path("data").glob(".*"))
