"""Judges measured as instruments: how often a verdict is wrong, how far a reward is off, and what moves it.

    balcap judge calibrate        a labelled set (drawn scenes with exact truth, or photographs labelled by people)
    balcap judge check            probes: captions changed in one known way

One file each: ``labelled`` (the sets), ``measure`` (verdicts and rewards against the truth), ``agreement`` (statistics
with intervals), ``probes``, ``noise`` (a judge that is wrong on purpose), ``report``.
"""
