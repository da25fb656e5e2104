"""The unit of collection is a shard: a finished one is never repeated, also after kill -9; failures are named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balcap.collect.engine import (
    QUESTIONS,
    REFERENCES,
    Collected,
    Failure,
    Unwritten,
    check_failures,
    collect,
    each,
    read_origins,
    write_failures,
)
from balcap.collect.rows import CollectError
from balcap.files import remove
from balcap.records import Question, Reference, Sample
from balcap.records_io import write_references

ROOT = Path(__file__).parents[2]
SAMPLES = [Sample(f"{n:04}", b"", "train", "folder", "CC0-1.0") for n in range(23)]
ORIGINS = {sample.image_id: f"images/{sample.image_id}.jpg" for sample in SAMPLES}
SHARD = 5


def write(sample: Sample) -> list[Reference]:
    if sample.image_id.endswith("7"):
        raise Unwritten("no luck")
    return [Reference(sample.image_id, f"Number {sample.image_id}.", (f"Number {sample.image_id}.",), "test", "0" * 64)]


def run(work: Path) -> Collected[Reference]:
    return collect(SAMPLES, ORIGINS, each(write), work, SHARD, REFERENCES)


def state(work: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of the finished shards."""
    return {str(p.relative_to(work)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in work.glob("0*/*")}


def test_every_picture_is_written_once_or_failed(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert [r.image_id for r in done.records] == [s.image_id for s in SAMPLES if not s.image_id.endswith("7")]
    assert done.failures == [Failure(f"{n:04}", f"images/{n:04}.jpg", "no luck") for n in (7, 17)]
    assert done.pictures == 23 and len(list(tmp_path.iterdir())) == 5


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    first, files = run(tmp_path), state(tmp_path)

    def never(sample: Sample) -> Sequence[Reference]:
        raise AssertionError(f"{sample.image_id} is finished")

    assert collect(SAMPLES, ORIGINS, each(never), tmp_path, SHARD, REFERENCES) == first
    assert state(tmp_path) == files


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_collect_engine as t
def write(sample):
    if sample.image_id == {last!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return t.write(sample)
t.collect(t.SAMPLES, t.ORIGINS, t.each(write), t.Path(sys.argv[1]), t.SHARD, t.REFERENCES)
"""


def killed_at(image_id: str, work: Path) -> None:
    """A process that collects, and is killed (SIGKILL) while it writes this picture."""
    code = KILLED.format(tests=str(Path(__file__).parent), last=image_id)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(work)], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_twice_it_goes_on_and_repeats_no_finished_shard(tmp_path: Path) -> None:
    work, clean = tmp_path / "killed", tmp_path / "clean"
    killed_at("0012", work)  # in the middle of the third shard
    after_first = state(work)
    assert sorted(after_first) == [f"{n:05}/{name}" for n in (0, 1) for name in ("failures.json", "records.parquet")]
    killed_at("0020", work)  # at the first picture of the last shard
    after_second = state(work)
    assert len(after_second) == 8 and after_first.items() <= after_second.items()
    written: list[str] = []

    def watched(sample: Sample) -> Sequence[Reference]:
        written.append(sample.image_id)
        return write(sample)

    done = collect(SAMPLES, ORIGINS, each(watched), work, SHARD, REFERENCES)
    assert written == ["0020", "0021", "0022"]
    assert after_second.items() <= state(work).items()
    assert done == run(clean)
    for name, found in (("a", done), ("b", run(clean))):
        write_references(tmp_path / name, found.records)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not [p for p in work.iterdir() if p.name.startswith(".")]


def test_half_a_shard_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".00001.tmp-123").mkdir()
    (tmp_path / ".00001.tmp-123/records.parquet").write_text("half")
    assert run(tmp_path).pictures == 23
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n:05}" for n in range(5)]


def test_a_writer_that_raises_leaves_finished_shards(tmp_path: Path) -> None:
    def full(sample: Sample) -> Sequence[Reference]:
        if sample.image_id == "0011":
            raise OSError(28, "No space left on device")
        return write(sample)

    with pytest.raises(OSError, match="No space"):
        collect(SAMPLES, ORIGINS, each(full), tmp_path, SHARD, REFERENCES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000", "00001"]


@given(st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5), st.sets(st.integers(0, 11)))
def test_any_set_of_finished_shards_gives_the_same_content(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int, lost: set[int]
) -> None:
    work = tmp_path_factory.mktemp("work")
    samples = [Sample(f"{n:04}", b"", "eval", "x", "x", {"n": count}) for n, count in enumerate(counts)]
    origins = {sample.image_id: sample.image_id for sample in samples}

    def ask(sample: Sample) -> list[Question]:
        return [Question(sample.image_id, f"{i}?", ("a", "b"), i % 2, 0.5, 0.25) for i in range(sample.meta["n"])]

    first = collect(samples, origins, each(ask), work, size, QUESTIONS)
    assert [len(ask(s)) for s in samples] == counts and len(first.records) == sum(counts)
    for n in lost:
        remove(work / f"{n:05}")
    assert collect(samples, origins, each(ask), work, size, QUESTIONS) == first


def test_images_and_manifest_must_agree(tmp_path: Path) -> None:
    fewer = {image_id: origin for image_id, origin in ORIGINS.items() if image_id != "0003"}
    with pytest.raises(CollectError, match=r"do not hold the same pictures.*0003.*prepare"):
        collect(SAMPLES, fewer, each(write), tmp_path / "a", SHARD, REFERENCES)
    with pytest.raises(CollectError, match="23 pictures against 24"):
        collect(SAMPLES, ORIGINS | {"9": "x"}, each(write), tmp_path / "b", SHARD, REFERENCES)


def test_progress_tells_how_long_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("▸ collect_references 23/23 pictures, 0:00 left")
    remove(tmp_path / "00001")
    run(tmp_path)
    assert capsys.readouterr().out.splitlines()[0].startswith("▸ collect_references 19/23 pictures")


def test_too_many_failures_stop_with_names(tmp_path: Path) -> None:
    failures = [Failure(str(n), f"images/{n}.jpg", f"line {n}: empty caption") for n in range(7)]
    table = tmp_path / "failures.parquet"
    check_failures(failures, 100, 0.07, "collect_references.max_failure_share", table)
    assert not table.exists()
    with pytest.raises(CollectError) as error:
        check_failures(failures, 100, 0.06, "collect_references.max_failure_share", table)
    for part in ("7 of 100", "7.0%", "6.0%", "images/0.jpg: line 0: empty caption", "and 2 more", "failures.parquet"):
        assert part in str(error.value)
    assert pq.read_table(table).num_rows == 7


def batches(samples: Iterable[Sample]) -> Generator[Sequence[Reference] | Unwritten, None, None]:
    """A writer that is nine pictures ahead of what it gives."""
    ahead: list[Sample] = []
    for sample in samples:
        ahead.append(sample)
        if len(ahead) == 9:
            yield from each(write)([ahead.pop(0)])
    yield from each(write)(ahead)


@pytest.mark.parametrize("lost", [set(), {0}, {1, 3}, {4}, {0, 1, 2, 3, 4}])
def test_a_writer_may_be_ahead_of_what_it_gives(tmp_path: Path, lost: set[int]) -> None:
    right = run(tmp_path / "one by one")
    assert collect(SAMPLES, ORIGINS, batches, tmp_path / "ahead", SHARD, REFERENCES) == right
    files = state(tmp_path / "ahead")
    for n in lost:
        remove(tmp_path / f"ahead/{n:05}")
    assert collect(SAMPLES, ORIGINS, batches, tmp_path / "ahead", SHARD, REFERENCES) == right
    kept = {name for name in files if int(name[:5]) not in lost}
    assert {name: state(tmp_path / "ahead")[name] for name in kept} == {name: files[name] for name in kept}


def test_failures_that_pass_are_asked_for_again_and_nothing_else(tmp_path: Path) -> None:
    written: list[str] = []

    def luckier(sample: Sample) -> list[Reference]:
        written.append(sample.image_id)
        return [] if sample.image_id == "0007" else write(sample)

    def mild(failures: Sequence[Failure]) -> None:
        assert {failure.reason for failure in failures} <= {"no luck"}

    first = run(tmp_path)
    files = state(tmp_path)
    done = collect(SAMPLES, ORIGINS, each(luckier), tmp_path, SHARD, REFERENCES, mild)
    assert written == ["0007", "0017"] and done.records == first.records
    assert done.failures == [Failure("0017", "images/0017.jpg", "no luck")]
    changed = {name[:5] for name, found in state(tmp_path).items() if files[name] != found}
    assert changed == {"00001", "00003"}
    assert run(tmp_path) == done


def test_too_many_failures_end_it_at_once_and_keep_what_is_finished(tmp_path: Path) -> None:
    def impatient(failures: Sequence[Failure]) -> None:
        if len(failures) > 1:
            raise CollectError("enough")

    with pytest.raises(CollectError, match="enough"):
        collect(SAMPLES, ORIGINS, each(write), tmp_path, SHARD, REFERENCES, impatient)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000", "00001", "00002"]


def test_the_failures_table_is_sorted_by_origin(tmp_path: Path) -> None:
    write_failures(tmp_path / "f.parquet", [Failure("1", "b", "x"), Failure("2", "a", "y")])
    assert pq.read_table(tmp_path / "f.parquet").to_pydict()["origin"] == ["a", "b"]


def test_an_empty_manifest_is_told(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(
        pa.table({"image_id": pa.array([], pa.string()), "origin": pa.array([], pa.string())}), tmp_path / "m"
    )
    with pytest.raises(CollectError, match="holds no picture"):
        read_origins(tmp_path / "m")
