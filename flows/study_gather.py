"""From the experiments of a study to its results: small files in the checkout, which a person commits.

gather(checkout, runs, Path("docs/results/ablations"), "balcap study ablations --arms paper --seeds 3")
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from balcap.files import atomic_path, remove
from balcap.records_io import read_references, read_samples
from balcap.study.data import EXAMPLE, curve_row, score_row, write_data
from flows import _dvc
from flows.study_plan import ArmRun

SAMPLES, CURVES = "reports/evaluate/samples.parquet", "reports/train/curves.csv"
IMAGES, REFERENCES = "data/images", "data/references.parquet"
EXAMPLES = 3
"""Pictures per world whose captions are shown."""


def gather(checkout: Path, runs: Sequence[ArmRun], folder: Path, command: str) -> None:
    """Write ``folder/data`` and ``folder/pictures`` from the experiments of ``runs``, which must exist.

    Raises ``DvcFault`` when an experiment's results are not in the cache.
    """
    scores: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    based: set[tuple[str, int]] = set()
    shown: set[str] = set()
    target = checkout / folder
    remove(target / "pictures")
    (target / "pictures").mkdir(parents=True)
    for run in runs:
        base = (run.arm.base, run.seed)
        with _results(checkout, run, [SAMPLES, CURVES]) as (samples_file, curves_file):
            rows = pq.read_table(samples_file).to_pylist()
            with curves_file.open(encoding="utf-8", newline="") as f:
                curves += [curve_row(run.arm.name, run.seed, row) for row in csv.DictReader(f)]
        said = {who: [row for row in rows if row["model"] == who] for who in ("base", "policy")}
        if base not in based:
            scores += [score_row(*base, row) for row in said["base"]]
        scores += [score_row(run.arm.name, run.seed, row) for row in said["policy"]]
        if run.seed == 0:
            ids = sorted(row["image_id"] for row in rows if row["model"] == "base")[:EXAMPLES]
            if run.arm.base not in shown:
                examples += _reference_rows(checkout, run, ids, target / "pictures")
                examples += [_example(run.arm.base, row) for row in said["base"] if row["image_id"] in ids]
            examples += [_example(run.arm.name, row) for row in said["policy"] if row["image_id"] in ids]
            shown.add(run.arm.base)
        based.add(base)
    names = {f"{run.arm.name}, seed {run.seed}": run.name for run in runs}
    write_data(target / "data", scores, curves, examples, {"commands": [command], "experiments": names})


@contextmanager
def _results(checkout: Path, run: ArmRun, paths: Sequence[str]) -> Iterator[list[Path]]:
    """Files of a run's experiment, in a temporary folder while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield [_dvc.fetch(checkout, run.name, path, Path(folder) / str(i)) for i, path in enumerate(paths)]


def _reference_rows(checkout: Path, run: ArmRun, ids: Sequence[str], pictures: Path) -> Iterator[dict[str, Any]]:
    """The references of the example pictures; their pictures are written on the way."""
    with _results(checkout, run, [IMAGES, REFERENCES]) as (images, references):
        known = read_references(references)
        stored = {sample.image_id: sample.image for sample in read_samples(images, "eval") if sample.image_id in ids}
    for image_id in ids:
        with atomic_path(pictures / f"{image_id[:12]}.png") as tmp:
            tmp.write_bytes(stored[image_id])
        nothing = dict.fromkeys(EXAMPLE, float("nan"))
        yield {"arm": "reference", "seed": 0, "image_id": image_id, "caption": known[image_id].caption, **nothing}


def _example(arm: str, row: dict[str, Any]) -> dict[str, Any]:
    scores = {name: row[name] for name in EXAMPLE}
    return {"arm": arm, "seed": 0, "image_id": row["image_id"], "caption": row["caption"], **scores}
