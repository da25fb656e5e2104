"""Stage `evaluate`: base and policy on held-out pictures, with intervals, plots and one report.

python -m steps.evaluate
"""

from __future__ import annotations

from pathlib import Path

import torch

from balcap.evaluation.judging import JudgeFailed
from balcap.evaluation.run import NothingToEvaluate, Results, evaluate
from balcap.evaluation.write import before_and_after, write_results
from balcap.judge import make_judge
from balcap.llm.base import Mismatch
from balcap.policy.folder import PolicyError
from balcap.records_io import read_questions, read_references, read_samples
from steps._stage import Stage, StageError, main, stage

REPORTS = "reports/evaluate"


def body() -> None:
    """Compare the two captioners and write every output."""
    with stage("evaluate") as s:
        params = s.params.evaluate
        torch.set_num_threads(s.params.runtime.threads)
        try:
            results = evaluate(
                params,
                Path("models/base"),
                Path("models/policy"),
                read_samples("data/images", "eval"),
                read_references("data/references.parquet"),
                read_questions("data/questions.parquet"),
                s.work,
                make_judge(params.judge, "evaluate.judge", s.params.runtime, params.judge_deadline),
            )
        except (NothingToEvaluate, JudgeFailed, Mismatch, PolicyError) as error:
            raise StageError(str(error)) from None
        write_results(results, params, lambda name: s.output(f"{REPORTS}/{name}"))
        track(s, results)


def track(s: Stage, results: Results) -> None:
    """Scores, the table of pictures and the report into the run."""
    for part, rows in results.scores.items():
        s.run.log({f"{part}/{name}": score.value for name, score in rows.items()})
    s.run.log({"judge/failure_rate": results.failure_rate, **results.account})
    s.run.table("before_and_after", before_and_after(results, s.params.evaluate.report_images), images=["picture"])
    s.run.artifact(Path(REPORTS) / "report.html")
    s.run.artifact(Path(REPORTS) / "metrics.json")


if __name__ == "__main__":
    main(body)
