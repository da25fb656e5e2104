"""All outputs of an evaluation into one folder; equal results give equal bytes.

write_results(results, params.evaluate, lambda name: atomic_path(folder / name))
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from balcap.evaluation import tables
from balcap.evaluation.cases import columns
from balcap.evaluation.plots import draw_plots
from balcap.evaluation.report import render_report
from balcap.evaluation.rewards import PARTS
from balcap.evaluation.run import Results
from balcap.params.evaluate import Evaluate
from balcap.rewards import length

if TYPE_CHECKING:
    import pandas as pd

Output = Callable[[str], AbstractContextManager[Path]]
"""Opens a temporary path that becomes the named file or folder when its block ends well."""


def write_results(results: Results, params: Evaluate, output: Output) -> None:
    """Write metrics.json, summary.json, samples.parquet, plots/ and report.html through ``output``."""
    reference_words = np.array([length.words(case.picture.reference.caption) for case in results.cases], dtype=float)
    with output("plots") as plots:
        draw_plots(
            plots, results.scores, columns(results.cases, "base"), columns(results.cases, "policy"), reference_words
        )
        html = render_report(results, params, plots)
    with output("report.html") as path:
        path.write_text(html, encoding="utf-8")
    with output("samples.parquet") as path:
        tables.write_samples(path, results.cases)
    with output("metrics.json") as path:
        tables.write_metrics(path, results.scores)
    with output("summary.json") as path:
        tables.write_summary(path, results.scores)


def before_and_after(results: Results, count: int) -> pd.DataFrame:
    """The first ``count`` pictures for the tracking store: ``picture`` holds the stored bytes."""
    import pandas as pd

    rows = [
        {
            "picture": case.picture.sample.image,
            "reference": case.picture.reference.caption,
            "before": case.base.caption.text,
            "after": case.policy.caption.text,
            **{f"{name}_before": case.base.scores[name] for name in PARTS},
            **{f"{name}_after": case.policy.scores[name] for name in PARTS},
        }
        for case in results.cases[:count]
    ]
    return pd.DataFrame(rows)
