"""The few numbers of a gate that a reviewer compares between runs (a DVC metric): flat, equal for equal data."""

from __future__ import annotations

import pandas as pd

from balcap.expectations.facts import Frames

Summary = dict[str, float | None]


def image_summary(frames: Frames) -> Summary:
    """Counts and shares of the pictures."""
    pictures, files = frames["pictures"], frames["files"]
    counts = frames["collection"].iloc[0]
    return {
        "train_images": int(counts["train_images"]),
        "eval_images": int(counts["eval_images"]),
        "unreadable": int((files["reason"] != "").sum()),
        "near_duplicate_share": _mean(pictures["same_phash"] > 1),
        "aspect_max": _max(pictures["aspect"]),
        "bytes_mean": _mean(pictures["bytes"]),
    }


def reference_summary(frames: Frames) -> Summary:
    """Counts, shares and lengths of captions, units and questions."""
    captions = frames["references"]
    return {
        "references": len(captions),
        "coverage": _mean(frames["pictures"]["references"] > 0),
        "words_mean": _mean(captions["words"]),
        "words_max": _max(captions["words"]),
        "units_mean": _mean(captions["units"]),
        "repetition_max": _max(captions["repetition"]),
        "questions": len(frames["questions"]),
        "questions_per_eval_image": _mean(frames["eval_pictures"]["questions"]),
    }


def _mean(values: pd.Series) -> float | None:
    """Rounded mean; ``None`` = unknown where there is nothing."""
    return round(float(values.mean()), 6) if len(values) else None


def _max(values: pd.Series) -> float | None:
    return round(float(values.max()), 6) if len(values) else None
