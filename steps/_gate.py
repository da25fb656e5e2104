"""What both gates do: evaluate every expectation, keep the report, then open or stay closed.

The report lies in the stage's work folder and in MLflow, also when the gate is closed.
"""

from __future__ import annotations

from collections.abc import Callable

from balcap.expectations.facts import Frames
from balcap.expectations.gate import Suites, run_gate
from balcap.expectations.report import counted, refusal, write_report
from balcap.expectations.summary import Summary
from balcap.files import write_json
from steps._stage import Stage, StageError


def pass_gate(
    s: Stage,
    title: str,
    guarded: str,
    frames: Frames,
    suites: Suites,
    summarise: Callable[[Frames], Summary],
    out: str,
) -> None:
    """Write the summary of ``guarded`` to ``out``, or raise :class:`StageError` with every critical expectation."""
    report = run_gate(frames, suites)
    summary = counted(summarise(frames), report)
    html, data = write_report(s.work, title, report, summary)
    s.run.artifact(html, "gx")
    s.run.artifact(data, "gx")
    s.run.log(summary)
    for outcome in report.warnings:
        print(f"warning: {outcome.line()}", flush=True)
    if report.failed:
        raise StageError(refusal(guarded, report, html))
    with s.output(out) as tmp:
        write_json(tmp, summary)
    print(f"{len(report.outcomes)} expectations, {len(report.warnings)} warning(s); report: {html}", flush=True)
