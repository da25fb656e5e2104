"""The ablation study: its arms, the claims it tests, and a report that is a function of its committed results.

    study = read_study(Path("docs/results/ablations/data"))
    effect(study, "grpo", "full", METRICS["b_capscore"], "curve")     difference with interval
    write_report(study, load_claims(), Path("docs/results/ablations"))

Claims and thresholds stand in ``claims.yaml`` and were committed before the runs. ``flows/study.py`` makes the runs and
gathers their results into the folder ``data``; nothing here knows of Prefect or DVC.
"""
