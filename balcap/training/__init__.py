"""Reinforcement learning of a captioner against precision, recall and linguistic quality (the paper's method, on TRL).

    result = train(params.train, Path("models/base"), samples, references, questions, work, run, judge)

One generation phase: sample G captions per picture -> judge (in the background) -> rewards, length mask -> advantages
-> clipped policy updates. ``run.py`` is the entry; importing this package is light.
"""
