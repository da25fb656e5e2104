"""One caption's verdicts for a terminal: green true and pointable, yellow true only, red not verified."""

from __future__ import annotations

import math

from rich.console import Group
from rich.text import Text

from balcap.records import MARKS, Assertion
from balcap.scoring import Scored


def shown(caption: str, scored: Scored) -> Group:
    """Statements, units and marks as the judge sees them, then the rewards."""
    said = scored.judgement
    lines = [Text(f"{scored.judge}: {caption}", style="bold"), Text()]
    lines += _part("statements", None if said.assertions is None else [_statement(a) for a in said.assertions])
    units = scored.reference.units
    lines += _part("units", None if said.covered is None else list(map(_unit, units, said.covered)))
    marks = {mark: getattr(said, mark) for mark in MARKS}
    lines.append(Text("marks: " + ", ".join(f"{name} {value or 'unknown'}" for name, value in marks.items())))
    lines.append(Text("rewards: " + ", ".join(f"{name} {_number(value)}" for name, value in scored.rewards.items())))
    return Group(*lines)


def _part(title: str, rows: list[Text] | None) -> list[Text]:
    if rows is None:
        return [Text(f"{title}: unknown", style="dim"), Text()]
    return [Text(f"{title}:{'' if rows else ' none'}"), *rows, Text()]


def _statement(a: Assertion) -> Text:
    style = "green" if a.verified and a.pointable else "yellow" if a.verified else "red"
    words = f"{'true' if a.verified else 'not verified'}, {'pointable' if a.pointable else 'not pointable'}"
    return Text(f"  {a.text}  ({words})", style=style)


def _unit(unit: str, covered: bool) -> Text:
    return Text(f"  {unit}  ({'covered' if covered else 'missed'})", style="green" if covered else "red")


def _number(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2f}"
