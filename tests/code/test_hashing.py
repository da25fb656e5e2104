"""Identity of pictures, and DVC's own hashes of files and folders."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from balcap.hashing import content_md5, dir_md5, file_md5, image_id

ROOT = Path(__file__).parents[2]
NAMES = ("b", "a/x", "a-b/x", "a.b", "a/b/c", "ä/ö", "a b", "Z", "zero", ".hidden/file", "a/.hidden")
IGNORED = ("__pycache__/x.py", "a/__pycache__/y", "m.pyc", ".DS_Store", "a/.DS_Store", ".b.tmp-12", "a/.x.tmp-7/file")


def fill(folder: Path) -> None:
    for name in (*NAMES, *IGNORED):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("" if name == "zero" else f"content of {name}\r\n")
    (folder / "link").symlink_to("b")
    (folder / "linked").symlink_to("a")


def test_hashes_are_those_that_dvc_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    for name in ("folder", "made"):
        (tmp_path / name).mkdir()
    fill(tmp_path / "folder")
    (tmp_path / "file").write_text("one file")
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    cmd = "mkdir -p made && cp -r folder/a made/ && cp file made-file"
    stage = {"cmd": cmd, "deps": ["folder", "file"], "outs": ["made", "made-file"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
    locked = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["make"]
    wanted = {entry["path"]: entry["md5"] for part in ("deps", "outs") for entry in locked[part]}
    assert {path: content_md5(path) for path in wanted} == wanted
    assert set(wanted) == {"folder", "file", "made", "made-file"}


def test_what_dvcignore_leaves_out_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "folder")
    before = dir_md5(tmp_path / "folder")
    for name in IGNORED:
        (tmp_path / "folder" / name).unlink()
    assert dir_md5(tmp_path / "folder") == before
    (tmp_path / "folder/b").write_text("other")
    assert dir_md5(tmp_path / "folder") != before


@pytest.mark.parametrize("room", ["balcap/judge", "balcap/collect"])
def test_prompts_are_no_part_of_a_rooms_hash_here_and_in_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    (tmp_path / room / "prompts").mkdir(parents=True)
    (tmp_path / room / "llm.py").write_text("")
    before = content_md5(room)
    (tmp_path / room / "prompts/recall.md").write_text("a prompt")
    stage = {"cmd": "true", "deps": [room, f"{room}/llm.py"]}  # a path inside a room, as a writer without a file has
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
    (dep, _) = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]["make"]["deps"]
    assert dep["path"] == room and dep["md5"] == before == content_md5(room)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        content_md5(tmp_path / "gone")


@given(st.binary(max_size=3000))
def test_a_file_hash_is_plain_md5(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "data"
    path.write_bytes(data)
    assert file_md5(path) == hashlib.md5(data).hexdigest()


@given(st.integers(1, 9), st.integers(1, 9))
def test_image_identity_holds_size_and_pixels(width: int, height: int) -> None:
    rgb = bytes(range(256))[: 3 * width * height]
    size = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    assert image_id(width, height, rgb) == hashlib.sha256(size + rgb).hexdigest()
    if width != height:
        assert image_id(height, width, rgb) != image_id(width, height, rgb)
    with pytest.raises(ValueError, match="RGB"):
        image_id(width, height, rgb + b"x")
