"""Stage `validate_images`: the gate on pictures, before anything is spent on captions.

dvc repro --single-item validate_images        or        python -m steps.validate_images
"""

from __future__ import annotations

from pathlib import Path

from balcap.expectations.facts import image_facts
from balcap.expectations.images import image_suites
from balcap.expectations.summary import image_summary
from steps._gate import pass_gate
from steps._stage import main, stage

SUMMARY = "reports/validation/images/summary.json"


def body() -> None:
    """Evaluate every expectation; the report is written and kept before the stage fails."""
    with stage("validate_images") as s:
        frames = image_facts(Path("data/manifest.parquet"), Path("data/rejects.parquet"), Path("data/images"))
        suites = image_suites(s.params.validate_images)
        pass_gate(s, "Gate on pictures", "data/images", frames, suites, image_summary, SUMMARY)


if __name__ == "__main__":
    main(body)
