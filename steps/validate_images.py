"""Stage `validate_images`: the gate on pictures, before anything is spent on captions.

    dvc repro --single-item validate_images        or        python -m steps.validate_images

The report lies in the stage's work folder and in MLflow, also when the gate is closed.
"""

from __future__ import annotations

from pathlib import Path

from balcap.expectations.facts import image_facts
from balcap.expectations.gate import run_gate
from balcap.expectations.images import image_suites
from balcap.expectations.report import counted, refusal, write_report
from balcap.expectations.summary import image_summary
from balcap.files import write_json
from steps._stage import StageError, main, stage


def body() -> None:
    """Evaluate every expectation; the report is written and kept before the stage fails."""
    with stage("validate_images") as s:
        frames = image_facts(Path("data/manifest.parquet"), Path("data/rejects.parquet"), Path("data/images"))
        report = run_gate(frames, image_suites(s.params.validate_images))
        summary = counted(image_summary(frames), report)
        html, data = write_report(s.work, "Gate on pictures", report, summary)
        s.run.artifact(html, "gx")
        s.run.artifact(data, "gx")
        s.run.log(summary)
        for outcome in report.warnings:
            print(f"warning: {outcome.line()}", flush=True)
        if report.failed:
            raise StageError(refusal("data/images", report, html))
        with s.output("reports/validation/images/summary.json") as tmp:
            write_json(tmp, summary)
        print(f"{len(report.outcomes)} expectations, {len(report.warnings)} warning(s); report: {html}", flush=True)


if __name__ == "__main__":
    main(body)
