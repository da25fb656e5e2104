"""A finished pipeline in miniature: random tiny captioners and reports in the stages' formats, in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from balcap.params import Params, check_params, read_params
from balcap.params.warmstart import TinyModel, Tokenizer
from balcap.policy.build import build_tiny
from balcap.policy.store import Policy, save_policy
from balcap.policy.tokenizer import word_tokenizer

ROOT = Path(__file__).parents[2]
TINY = TinyModel(
    hidden_size=16, intermediate_size=32, layers=1, heads=2, image_size=32, patch_size=16,
    tokenizer=Tokenizer(name="scenes", vocab_size=64),
)  # fmt: skip
METRICS = (
    *("precision", "recall", "linguistic", "b_capscore", "qa_accuracy", "arena", "words", "length_ratio"),
    *("repetition", "hedging", "self_praise"),
)


def embedded() -> Params:
    """The embedded recipe, with its store in the local folder."""
    raw = read_params(ROOT / "recipes/embedded.yaml")
    raw["runtime"]["tracking_uri"] = None
    return check_params(raw)


def write_policy(folder: Path, seed: int) -> None:
    """A random captioner that knows a few words."""
    model, processor = build_tiny(TINY, word_tokenizer(["a", "red", "circle", "blue", "square"], "describe"), seed)
    save_policy(Policy(model, processor, "describe", True, 8), folder)


def write_world(root: Path, seed: int = 1, caption: str = "A red circle.") -> None:
    """Everything that registration reads, below ``root``."""
    write_policy(root / "models/base", 0)
    write_policy(root / "models/policy", seed)
    (root / "data").mkdir(exist_ok=True)
    rows = [
        {"image_id": f"{i:064x}", "split": "train" if i else "eval", "origin": f"scene-{i}", "source": "balcap scenes",
         "author": "balcap", "license": "CC0-1.0", "width": 96, "height": 96, "stored_width": 96, "stored_height": 64}
        for i in range(4)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(root / "data/manifest.parquet")
    known = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 256}
    unknown = {"value": None, "low": None, "high": None, "n": 0}
    sides: dict[str, Any] = {
        side: {key: unknown if key == "arena" and side == "base" else known for key in METRICS}
        for side in ("base", "policy", "difference")
    }
    write(root / "reports/evaluate/metrics.json", sides)
    write(root / "reports/train/summary.json", {"steps": 150, "reward_last": 0.91})
    write(root / "reports/validation/images/summary.json", {"evaluated": 12, "failed_critical": 0})
    write(root / "reports/validation/references/summary.json", {"evaluated": 9, "failed_critical": 0})
    samples = [
        {"image_id": f"{i:064x}", "model": model, "caption": caption, "truncated": False, "reference": "A blue square.",
         "precision": 0.5, "recall": float("nan"), "judgement": "{}"}
        for i in range(4) for model in ("base", "policy")
    ]  # fmt: skip
    pd.DataFrame(samples).to_parquet(root / "reports/evaluate/samples.parquet")


def write(path: Path, value: Any) -> None:
    """JSON into a file whose folder may be missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
