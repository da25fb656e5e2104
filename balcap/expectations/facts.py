"""What there is to check, as tables: one row per file, picture, reference, question, and one row for the whole.

Great Expectations sees these tables only and opens no picture. Every table has a column `row`, which names a row for
people. Numbers are never null (an absent caption has 0 words), because a null would be skipped by the range checks.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

Frames = dict[str, pd.DataFrame]
NGRAM = 4


def image_facts(manifest: Path, rejects: Path, images: Path) -> Frames:
    """`files` (manifest and rejects), `pictures` (manifest against shards), `collection` (one row of counts).

    A duplicate of an accepted picture is among the rejects but could be read: it is no fault here.
    """
    pictures, refused = _read(manifest, "origin"), _read(rejects, "origin")
    sides = pictures[["width", "height"]]
    pictures["aspect"] = sides.max(axis=1) / sides.min(axis=1).clip(lower=1)
    pictures["license"] = pictures["license"].fillna("")
    pictures["same_phash"] = pictures["phash"].map(Counter(pictures["phash"])).astype("int64")
    stored = _stored(images)
    keys = _keys(pictures, "stored_width", "stored_height")
    pictures["in_shards"] = [stored[key] == 1 for key in keys]
    unreadable = refused[refused["reason"] != "duplicate"]
    reasons = [""] * len(pictures) + list(unreadable["reason"])
    files = pd.DataFrame({"row": [*pictures["row"], *unreadable["row"]], "reason": reasons}, dtype="str")
    counts = {"not_in_manifest": len(set(stored) - set(keys)), **_splits(pictures)}
    return {"files": files, "pictures": pictures, "collection": _one_row(counts)}


def reference_facts(manifest: Path, references: Path, questions: Path) -> Frames:
    """`pictures`, `eval_pictures` (how many references, questions each), `references`, `questions`, `collection`."""
    pictures, captions, asked = _read(manifest, "origin"), _read(references, "image_id"), _read(questions, "image_id")
    origins = dict(zip(pictures["image_id"], pictures["origin"], strict=True))
    for frame in (captions, asked):
        frame["known"] = frame["image_id"].isin(set(origins)).astype(bool)
        frame["row"] = [origins.get(image_id, image_id) for image_id in frame["image_id"]]
    pictures["references"] = pictures["image_id"].map(Counter(captions["image_id"])).astype("int64")
    pictures["questions"] = pictures["image_id"].map(Counter(asked["image_id"])).astype("int64")
    texts = captions["caption"].fillna("")
    captions["words"] = [len(text.split()) for text in texts]
    captions["repetition"] = [repetition(text) for text in texts]
    captions["units"] = [0 if units is None else len(units) for units in captions["units"]]
    captions["prompt_sha256"] = captions["prompt_sha256"].fillna("")
    asked["distinct_options"] = [_distinct(options) for options in asked["options"]]
    asked["answer_in_range"] = [
        0 <= a < len(o) for a, o in zip(asked["answer"].fillna(-1), asked["options"], strict=True)
    ]
    asked = asked.drop(columns="options")
    writers = len(set(zip(captions["writer"], captions["prompt_sha256"], strict=True)))
    return {
        "pictures": pictures,
        "eval_pictures": pictures[pictures["split"] == "eval"].reset_index(drop=True),
        "references": captions,
        "questions": asked,
        "collection": _one_row({"writers": writers, **_splits(pictures)}),
    }


def repetition(text: str) -> float:
    """Share of the 4-word sequences of a text that are repeats of an earlier one, in [0, 1); 0 below 4 words."""
    words = text.lower().split()
    grams = [tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _read(path: Path, label: str) -> pd.DataFrame:
    """A table with `row`, the name of each row for people."""
    frame = pq.read_table(path).to_pandas()
    frame["row"] = frame[label]
    return frame


def _stored(images: Path) -> Counter[tuple[str, str, int, int]]:
    """(image_id, split, width, height) of every row of the shards; the pictures themselves are not read."""
    columns = ["image_id", "split", "width", "height"]
    shards = (pq.read_table(shard, columns=columns).to_pandas() for shard in sorted(images.glob("*.parquet")))
    return Counter(key for shard in shards for key in _keys(shard, "width", "height"))


def _keys(frame: pd.DataFrame, width: str, height: str) -> list[tuple[str, str, int, int]]:
    return list(zip(*(frame[column] for column in ("image_id", "split", width, height)), strict=True))


def _splits(pictures: pd.DataFrame) -> dict[str, int]:
    """Pictures per split, and how many stand in both."""
    train, held_out = (set(pictures.loc[pictures["split"] == split, "image_id"]) for split in ("train", "eval"))
    return {"train_images": len(train), "eval_images": len(held_out), "in_both_splits": len(train & held_out)}


def _distinct(options: list[str]) -> bool:
    """Two or more options, all different and none empty."""
    texts = {str(option).strip() for option in options}
    return len(options) >= 2 and len(texts) == len(options) and "" not in texts


def _one_row(counts: dict[str, int]) -> pd.DataFrame:
    return pd.DataFrame([{"row": "all", **counts}])
