"""The gate: every expectation of every suite is evaluated, and what could not be evaluated has failed.

    report = run_gate(frames, suites)      # outcomes; nothing raises here
    report.failed                          # critical ones that did not hold, and all that were not evaluated
    report.warnings                        # the others that did not hold

Great Expectations drops an expectation that it does not know with a log line, and reports a metric that raised as a
result without numbers. Both would read as passed in a careless count, so each expectation carries its place in the
suite in `meta`, each result is matched to it, and one without a row count is an error whatever its severity.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.metadata_types import FailureSeverity

Suites = dict[str, list[gxe.Expectation]]
CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
EXAMPLES = 3
NOT_EVALUATED = "was not evaluated: Great Expectations returned no result"


@dataclass(frozen=True)
class Outcome:
    """One expectation after its evaluation. ``unexpected`` of ``rows`` rows did not hold; ``error`` if unevaluated."""

    table: str
    expectation: str
    column: str
    description: str
    severity: str
    holds: bool
    unexpected: int
    rows: int
    examples: tuple[str, ...]
    error: str

    @property
    def share(self) -> float:
        """Share of rows that did not hold."""
        return self.unexpected / self.rows if self.rows else 0.0

    def line(self) -> str:
        """One line for a person: what, where, how much, examples."""
        what = f"{self.description} [{self.expectation}, {self.table}.{self.column}]"
        if self.error:
            return f"{what}: {self.error}"
        examples = f", e.g. {'; '.join(self.examples)}" if self.examples else ""
        return f"{what}: not so for {self.unexpected} of {self.rows} rows ({self.share:.1%}){examples}"


@dataclass(frozen=True)
class GateReport:
    """All outcomes, in the order of the suites."""

    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> list[Outcome]:
        """What stops the pipeline: a critical expectation that does not hold, or any that could not be evaluated."""
        return [o for o in self.outcomes if o.error or (not o.holds and o.severity == "critical")]

    @property
    def warnings(self) -> list[Outcome]:
        """What does not hold and is shown only."""
        return [o for o in self.outcomes if not o.holds and o not in self.failed]


def run_gate(frames: Mapping[str, pd.DataFrame], suites: Suites) -> GateReport:
    """Evaluate every expectation on the table that its suite names (columns: facts, and `row`)."""
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("facts")
    outcomes: list[Outcome] = []
    for table, expectations in suites.items():
        asset = source.add_dataframe_asset(table)
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frames[table]})
        outcomes += _evaluate(table, batch, expectations)
    expected = sum(map(len, suites.values()))
    if len(outcomes) != expected:
        raise AssertionError(f"{len(outcomes)} of {expected} expectations have an outcome")
    return GateReport(tuple(outcomes))


def _evaluate(table: str, batch: Any, expectations: Sequence[gxe.Expectation]) -> list[Outcome]:
    """One outcome per expectation, in order; results are matched by their place, which Great Expectations changes."""
    for place, expectation in enumerate(expectations):
        expectation.meta = {"place": place}
    result_format = {
        "result_format": "SUMMARY",
        "partial_unexpected_count": EXAMPLES,
        "unexpected_index_column_names": ["row"],
    }
    results = batch.validate(
        gx.ExpectationSuite(name=table, expectations=list(expectations)), result_format=result_format
    )
    found = {result.expectation_config.meta["place"]: result for result in results.results}
    return [_outcome(table, expectation, found.get(place)) for place, expectation in enumerate(expectations)]


def _outcome(table: str, expectation: gxe.Expectation, result: Any) -> Outcome:
    error = NOT_EVALUATED if result is None else _error(result)
    numbers: Mapping[str, Any] = {} if result is None or error else result.result
    column = str(getattr(expectation, "column", ""))
    return Outcome(
        table=table,
        expectation=type(expectation).__name__,
        column=column,
        description=expectation.description or "",
        severity=FailureSeverity(expectation.severity).value,
        holds=not error and bool(result.success),
        unexpected=int(numbers.get("unexpected_count", 0)),
        rows=int(numbers.get("element_count", 0)),
        examples=tuple(_example(column, row) for row in numbers.get("partial_unexpected_index_list") or ())[:EXAMPLES],
        error=error,
    )


def _error(result: Any) -> str:
    """Why a result says nothing, or ``""``: some metric raised, or there is no count of rows."""
    info = result.exception_info or {}
    raised = [info] if "raised_exception" in info else list(info.values())
    messages = [str(one.get("exception_message")) for one in raised if one.get("raised_exception")]
    if messages:
        return f"could not be evaluated: {messages[0].splitlines()[0]}"
    return "" if {"element_count", "unexpected_count"} <= set(result.result) else NOT_EVALUATED


def _example(column: str, row: Mapping[str, Any]) -> str:
    value = str(row.get(column))
    return f"{row.get('row')} ({column} {value if len(value) <= 80 else value[:79] + '…'})"


def no_more_than(share: float) -> float:
    """The `mostly` that allows this share of rows not to hold, exactly this share included."""
    return max(0.0, 1.0 - share - 1e-9)


def at_least(column: str, minimum: int, description: str) -> gxe.Expectation:
    """A count of the one-row table is at least ``minimum`` (critical)."""
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=minimum, severity=CRITICAL, description=description
    )


def exactly(column: str, value: int, description: str, severity: FailureSeverity = CRITICAL) -> gxe.Expectation:
    """A count of the one-row table has this value."""
    return gxe.ExpectColumnValuesToBeBetween(
        column=column, min_value=value, max_value=value, severity=severity, description=description
    )
