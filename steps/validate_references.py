"""Stage `validate_references`: the gate on captions, units and questions, before training.

    dvc repro --single-item validate_references        or        python -m steps.validate_references

The report lies in the stage's work folder and in MLflow, also when the gate is closed.
"""

from __future__ import annotations

from pathlib import Path

from balcap.expectations.facts import reference_facts
from balcap.expectations.gate import run_gate
from balcap.expectations.references import reference_suites
from balcap.expectations.report import counted, refusal, write_report
from balcap.expectations.summary import reference_summary
from balcap.files import write_json
from steps._stage import StageError, main, stage


def body() -> None:
    """Evaluate every expectation; the report is written and kept before the stage fails."""
    with stage("validate_references") as s:
        frames = reference_facts(
            Path("data/manifest.parquet"), Path("data/references.parquet"), Path("data/questions.parquet")
        )
        report = run_gate(frames, reference_suites(s.params.validate_references))
        summary = counted(reference_summary(frames), report)
        html, data = write_report(s.work, "Gate on captions, units and questions", report, summary)
        s.run.artifact(html, "gx")
        s.run.artifact(data, "gx")
        s.run.log(summary)
        for outcome in report.warnings:
            print(f"warning: {outcome.line()}", flush=True)
        if report.failed:
            raise StageError(refusal("data/references.parquet", report, html))
        with s.output("reports/validation/references/summary.json") as tmp:
            write_json(tmp, summary)
        print(f"{len(report.outcomes)} expectations, {len(report.warnings)} warning(s); report: {html}", flush=True)


if __name__ == "__main__":
    main(body)
