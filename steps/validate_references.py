"""Stage `validate_references`: the gate on captions, units and questions, before training.

dvc repro --single-item validate_references        or        python -m steps.validate_references
"""

from __future__ import annotations

from pathlib import Path

from balcap.expectations.facts import reference_facts
from balcap.expectations.references import reference_suites
from balcap.expectations.summary import reference_summary
from steps._gate import pass_gate
from steps._stage import main, stage

TITLE = "Gate on captions, units and questions"
SUMMARY = "reports/validation/references/summary.json"


def body() -> None:
    """Evaluate every expectation; the report is written and kept before the stage fails."""
    with stage("validate_references") as s:
        frames = reference_facts(
            Path("data/manifest.parquet"), Path("data/references.parquet"), Path("data/questions.parquet")
        )
        suites = reference_suites(s.params.validate_references)
        pass_gate(s, TITLE, "data/references.parquet", frames, suites, reference_summary, SUMMARY)


if __name__ == "__main__":
    main(body)
