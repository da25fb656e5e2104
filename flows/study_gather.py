"""From the experiments of a study to its results: small files in the checkout, which a person commits.

check_kept(checkout, runs, Path("docs/results/ablations"))       before anything is run
gather(checkout, runs, Path("docs/results/ablations"), "balcap study ablations --arms paper --seeds 3")
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from balcap.files import atomic_path
from balcap.records_io import read_references, read_samples
from balcap.study.data import EXAMPLE, StudyFault, curve_row, score_row, write_data
from flows import _dvc
from flows._git import git
from flows.study_plan import ArmRun

SAMPLES, CURVES = "reports/evaluate/samples.parquet", "reports/train/curves.csv"
IMAGES, REFERENCES = "data/images", "data/references.parquet"
SEED = ", seed "
EXAMPLES = 3
"""Pictures per world whose captions are shown."""


@dataclass
class _Found:
    """What the results are made of, run by run."""

    scores: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    based: set[tuple[str, int]] = field(default_factory=set)
    """Warm starts, and seeds, whose scores are there."""


def check_kept(checkout: Path, runs: Sequence[ArmRun], folder: Path) -> None:
    """Say which results in ``folder`` are of none of ``runs`` and so give way.

    Raises :class:`StudyFault` if git does not hold them.
    """
    if not (lost := _others(checkout, runs, folder)):
        return
    arms = ", ".join(sorted({label.split(SEED)[0] for label in lost}))
    if git(checkout, "status", "--porcelain", "--", f"{folder}/data"):
        raise StudyFault(
            f"{folder}/data holds results that would be lost, of {arms}: these options do not ask for them, no "
            f"finished experiments of this code bring them, and git does not hold them. Commit {folder}, or remove it"
        )
    print(f"note: the report leaves out {arms}; git keeps what {folder} says of them", flush=True)


def _others(checkout: Path, runs: Sequence[ArmRun], folder: Path) -> set[str]:
    """Labels of the results in ``folder`` that none of ``runs`` brings."""
    return set(_before(checkout, folder)["experiments"]) - set(map(_label, runs))


def _before(checkout: Path, folder: Path) -> Mapping[str, Any]:
    """What the results that stand in ``folder`` come from."""
    path = checkout / folder / "data/runs.json"
    if not path.exists():
        return {"commands": [], "experiments": {}}
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _label(run: ArmRun) -> str:
    return f"{run.arm.name}{SEED}{run.seed}"


def gather(checkout: Path, runs: Sequence[ArmRun], folder: Path, command: str) -> None:
    """Write ``folder/data`` and ``folder/pictures`` from the experiments of ``runs``, which must exist.

    What stands there is replaced once everything is collected; the commands that made it stay before ``command`` if all
    that they made is brought again.
    Raises ``DvcFault`` when an experiment's results are not in the cache, and ``StudyFault`` when they cannot be
    compared.
    """
    found = _Found()
    for run in runs:
        _collect(checkout, run, found)
    before = [] if _others(checkout, runs, folder) else _before(checkout, folder)["commands"]
    commands = dict.fromkeys([*before, command])
    facts = {"commands": list(commands), "experiments": {_label(run): run.name for run in runs}}
    with atomic_path(checkout / folder / "data") as data, atomic_path(checkout / folder / "pictures") as pictures:
        write_data(data, found.scores, found.curves, found.examples, facts)
        pictures.mkdir()
        for image_id, png in found.pictures.items():
            (pictures / f"{image_id[:12]}.png").write_bytes(png)


def _collect(checkout: Path, run: ArmRun, found: _Found) -> None:
    """Add the results of one run."""
    arm, base = run.arm.name, (run.arm.base, run.seed)
    with _results(checkout, run, [SAMPLES, CURVES]) as (samples, curves):
        rows = pq.read_table(samples).to_pylist()
        with curves.open(encoding="utf-8", newline="") as f:
            found.curves += [curve_row(arm, run.seed, row) for row in csv.DictReader(f)]
    said = {who: [row for row in rows if row["model"] == who] for who in ("base", "policy")}
    if base not in found.based:
        found.scores += [score_row(*base, row) for row in said["base"]]
    found.scores += [score_row(arm, run.seed, row) for row in said["policy"]]
    if run.seed == 0:
        _show(checkout, run, said, found)
    found.based.add(base)


def _show(checkout: Path, run: ArmRun, said: Mapping[str, list[dict[str, Any]]], found: _Found) -> None:
    """Add a run's captions of the example pictures; the first run of a world also brings what its arms share."""
    ids = sorted(row["image_id"] for row in said["base"])[:EXAMPLES]
    if (run.arm.base, run.seed) not in found.based:
        found.examples += _reference_rows(checkout, run, ids, found.pictures)
        found.examples += [_example(run.arm.base, row) for row in said["base"] if row["image_id"] in ids]
    found.examples += [_example(run.arm.name, row) for row in said["policy"] if row["image_id"] in ids]


@contextmanager
def _results(checkout: Path, run: ArmRun, paths: Sequence[str]) -> Iterator[list[Path]]:
    """Files of a run's experiment, in a temporary folder while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = [_dvc.fetch(checkout, run.name, path, Path(folder) / str(i)) for i, path in enumerate(paths)]
        except _dvc.DvcFault as error:
            raise _dvc.DvcFault(f"{error}, or `dvc exp remove {run.name}` and run the study again") from None
        yield files


def _reference_rows(
    checkout: Path, run: ArmRun, ids: Sequence[str], pictures: dict[str, bytes]
) -> Iterator[dict[str, Any]]:
    """The references of the example pictures; their pictures are added to ``pictures`` on the way."""
    with _results(checkout, run, [IMAGES, REFERENCES]) as (images, references):
        known = read_references(references)
        stored = {sample.image_id: sample.image for sample in read_samples(images, "eval") if sample.image_id in ids}
    for image_id in ids:
        pictures[image_id] = stored[image_id]
        nothing = dict.fromkeys(EXAMPLE, float("nan"))
        yield {"arm": "reference", "seed": 0, "image_id": image_id, "caption": known[image_id].caption, **nothing}


def _example(arm: str, row: dict[str, Any]) -> dict[str, Any]:
    scores = {name: row[name] for name in EXAMPLE}
    return {"arm": arm, "seed": 0, "image_id": row["image_id"], "caption": row["caption"], **scores}
