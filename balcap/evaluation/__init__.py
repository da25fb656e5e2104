"""Base against policy on held-out pictures: one file per protocol, intervals, one report.

    results = evaluate(params.evaluate, "models/base", "models/policy", samples, references, questions, work)
    write_results(results, params.evaluate, lambda name: atomic_path(folder / name))

Scores are on a 0 to 1 scale, the arena on -1 to 1, words and length ratio as they are, faults of wording
(``detectors``) per 100 words. Every score states over how
many pictures it was known; what a judge cannot fill has n 0 and no value. Importing this package is light.
"""
