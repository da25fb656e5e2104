"""The results of a study as four small files, which are committed: everything that the report is made of.

    scores.parquet     per arm, seed and held-out picture: what evaluation measured, and counts of kinds of sentences
    curves.parquet     per arm, seed and step: what training measured of every arm alike
    examples.parquet   captions of the first pictures, with scores; pictures/ID.png are the pictures
    runs.json          which experiments they come from

An arm is named as in ``arms.py``; what the captioner said before reinforcement learning stands under the arm's base.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from balcap.files import write_json
from balcap.records_io import write_table
from balcap.scenes import parse
from balcap.study.arms import ARMS, BASES

Array = NDArray[np.float64]
Key = tuple[str, int]
"""Arm and seed."""
MEASURED = ("precision", "recall", "linguistic", "qa_accuracy", "arena", "words", "length_ratio", "repetition")
"""Columns of evaluation's samples.parquet that are kept."""
COUNTED = ("commentary", "repeats", "relations", "objects", "place_first")
"""What :func:`counts` finds in a caption."""
CURVES = {
    "precision": "quality/precision",
    "recall": "quality/recall",
    "linguistic": "quality/linguistic",
    "words": "length/words",
}
"""Columns of training's curves.csv that are kept, under the names of evaluation."""
EXAMPLE = ("precision", "recall", "linguistic")
_KEY = [("arm", pa.string()), ("seed", pa.int32())]
_SCORES = pa.schema([*_KEY, ("image_id", pa.string()), *((name, pa.float32()) for name in (*MEASURED, *COUNTED))])
_CURVES = pa.schema([*_KEY, ("step", pa.int32()), *((name, pa.float32()) for name in CURVES)])
_EXAMPLES = pa.schema(
    [*_KEY, ("image_id", pa.string()), ("caption", pa.string()), *((name, pa.float32()) for name in EXAMPLE)]
)


class StudyFault(ValueError):
    """Results that cannot be compared; the message says which and what to do."""


@dataclass(frozen=True)
class Study:
    """``scores`` [pictures] and ``curves`` [steps] per arm and seed, examples, and where they come from."""

    scores: Mapping[Key, Mapping[str, Array]]
    curves: Mapping[Key, Mapping[str, Array]]
    examples: list[dict[str, Any]]
    runs: Mapping[str, Any]

    def arms(self) -> list[str]:
        """Names of what has scores, warm starts included."""
        return list(dict.fromkeys(arm for arm, _ in self.scores))

    def seeds(self, arm: str, at: str = "end") -> list[int]:
        """Seeds in which an arm was run, sorted."""
        return sorted(seed for name, seed in (self.curves if at == "curve" else self.scores) if name == arm)

    def pictures(self, arm: str) -> int:
        """Number of held-out pictures."""
        return len(self.scores[arm, self.seeds(arm)[0]]["precision"])


def counts(caption: str) -> dict[str, float]:
    """Kinds of statements in one caption of the embedded world.

    ``commentary``: comments; ``repeats``: statements that stood there before; ``relations``: between two things;
    ``objects``: clauses about a thing with a place, and ``place_first``: those of them that begin with the place.
    """
    reading = parse(caption)
    atoms = reading.atoms()
    placed = [c.text for c in reading.clauses() if any(a.kind in ("shape", "colour", "size") for a in c.atoms)]
    return {
        "commentary": float(sum(atom.kind == "comment" for atom in atoms)),
        "repeats": float(len(atoms) - len(set(atoms))),
        "relations": float(sum(atom.kind == "relation" for atom in atoms)),
        "objects": float(len(placed)),
        "place_first": float(sum(text.startswith("at ") for text in placed)),
    }


def score_row(arm: str, seed: int, sample: Mapping[str, Any]) -> dict[str, Any]:
    """A row of scores.parquet from a row of evaluation's samples.parquet."""
    key = {"arm": arm, "seed": seed, "image_id": sample["image_id"]}
    return key | {name: sample[name] for name in MEASURED} | counts(sample["caption"])


def curve_row(arm: str, seed: int, row: Mapping[str, str]) -> dict[str, Any]:
    """A row of curves.parquet from a row of training's curves.csv; what is empty there is unknown."""
    key = {"arm": arm, "seed": seed, "step": int(row["step"])}
    return key | {name: float(row[column] or "nan") for name, column in CURVES.items()}


def write_data(
    folder: Path,
    scores: Iterable[dict[str, Any]],
    curves: Iterable[dict[str, Any]],
    examples: Iterable[dict[str, Any]],
    runs: Mapping[str, Any],
) -> None:
    """Write the four files; equal results give equal bytes. Raises :class:`StudyFault` before anything is written."""
    scores = list(scores)
    pictures: dict[Key, list[str]] = {}
    for row in scores:
        pictures.setdefault((row["arm"], row["seed"]), []).append(row["image_id"])
    same_pictures(pictures)
    write_table(folder / "scores.parquet", scores, _SCORES)
    write_table(folder / "curves.parquet", curves, _CURVES)
    write_table(folder / "examples.parquet", examples, _EXAMPLES)
    write_json(folder / "runs.json", runs)


def same_pictures(pictures: Mapping[Key, Sequence[str]]) -> None:
    """Raise :class:`StudyFault` unless all runs of one world were evaluated on the same pictures, each of them once."""
    first: dict[str, Key] = {}
    for key, ids in pictures.items():
        name, seed = key
        other = first.setdefault(name if name in BASES else ARMS[name].base, key)
        if sorted(ids) != sorted(pictures[other]) or len(set(ids)) != len(ids):
            raise StudyFault(
                f"scores.parquet: {name}, seed {seed}, has other held-out pictures than {other[0]}, seed {other[1]}: "
                "they cannot be compared; `balcap study ablations` gathers the results again"
            )


def read_study(folder: Path) -> Study:
    """What :func:`write_data` wrote; raises ``FileNotFoundError`` naming a file that is missing, and
    :class:`StudyFault`.
    """
    runs = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    scores = _by_run(folder / "scores.parquet", "image_id")
    same_pictures({key: rows["image_id"].tolist() for key, rows in scores.items()})
    curves = _by_run(folder / "curves.parquet", "step")
    return Study(
        {key: _columns(rows, (*MEASURED, *COUNTED)) for key, rows in scores.items()},
        {key: _columns(rows, tuple(CURVES)) for key, rows in curves.items()},
        pq.read_table(folder / "examples.parquet").to_pylist(),
        runs,
    )


def _by_run(path: Path, order: str) -> dict[Key, Any]:
    """A table of each arm and seed, sorted by picture or step, so that row i is the same one everywhere."""
    frame = pq.read_table(path).to_pandas()
    groups = frame.groupby(["arm", "seed"], sort=False)
    return {(str(arm), int(seed)): rows.sort_values(order) for (arm, seed), rows in groups}


def _columns(rows: Any, names: Sequence[str]) -> dict[str, Array]:
    return {name: rows[name].to_numpy(dtype=np.float64) for name in names}
