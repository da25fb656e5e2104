"""A gate's report for people (one HTML file, no script, nothing loaded from elsewhere) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from html import escape
from pathlib import Path

from balcap.expectations.gate import GateReport, Outcome
from balcap.expectations.summary import Summary
from balcap.files import atomic_path, write_json

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.4rem .6rem}
tr{border-bottom:1px solid #ddd}.failed td:first-child{color:#b00020;font-weight:600}
.warning td:first-child{color:#8a5a00;font-weight:600}.holds td:first-child{color:#20703a}
small,code{color:#666}li{overflow-wrap:anywhere}
"""
SEVERITY = {"failed": "stops the pipeline", "warning": "warning", "holds": "holds"}


def write_report(folder: Path, title: str, report: GateReport, summary: Summary) -> list[Path]:
    """Write `report.html` and `report.json` into ``folder``; returns both paths."""
    html, data = folder / "report.html", folder / "report.json"
    with atomic_path(html) as tmp:
        tmp.write_text(render(title, report, summary), encoding="utf-8")
    write_json(data, {"summary": summary, "expectations": [asdict(o) | {"share": o.share} for o in report.outcomes]})
    return [html, data]


def counted(summary: Summary, report: GateReport) -> Summary:
    """The summary with how many expectations were evaluated and how many gave a warning."""
    return {"expectations": len(report.outcomes), "warnings": len(report.warnings), **summary}


def refusal(data: str, report: GateReport, html: Path) -> str:
    """Why the gate is closed, for a person: every expectation, its column, share and examples, and the report."""
    lines = [f"  {outcome.line()}" for outcome in report.failed]
    head = f"{data}: {len(lines)} of {len(report.outcomes)} expectations stop the pipeline:"
    return "\n".join([head, *lines, f"The full report is {html}"])


def render(title: str, report: GateReport, summary: Summary) -> str:
    """The report as HTML; what does not hold comes first."""
    verdict = f"{len(report.failed)} stop the pipeline" if report.failed else "The gate is open"
    head = f"{len(report.outcomes)} expectations. {verdict}, {len(report.warnings)} warning(s)."
    kinds = [(_kind(report, outcome), outcome) for outcome in report.outcomes]
    rows = "".join(_row(kind, o) for kind, o in sorted(kinds, key=lambda pair: list(SEVERITY).index(pair[0])))
    facts = "".join(
        f"<tr><td>{escape(name)}</td><td>{'unknown' if value is None else f'{value:g}'}</td></tr>"
        for name, value in summary.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{head}</p><table><tr><th>verdict<th>expectation<th>rows<th>not so<th>examples</tr>"
        f"{rows}</table><h2>Numbers</h2><table>{facts}</table></html>\n"
    )


def _kind(report: GateReport, outcome: Outcome) -> str:
    return "failed" if outcome in report.failed else "holds" if outcome.holds else "warning"


def _row(kind: str, o: Outcome) -> str:
    examples = "".join(f"<li>{escape(example)}</li>" for example in o.examples)
    what = f"{escape(o.description)}<br><small>{escape(o.expectation)}, {escape(o.table)}.{escape(o.column)}</small>"
    shown = escape(o.error) if o.error else f"{o.unexpected} ({o.share:.1%})"
    return (
        f'<tr class="{kind}"><td>{SEVERITY[kind]}</td><td>{what}</td><td>{o.rows}</td><td>{shown}</td>'
        f"<td><ul>{examples}</ul></td></tr>"
    )
